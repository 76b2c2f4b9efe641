"""Attacks on an erasure, shared by evaluation, which runs them, and training, which trains against them.

config          settings of an attack
base            what an attack is given (`AttackedPrompt`, `AttackTarget`), what it answers (`AttackOutcome`)
registry        which attacks there are
running, store  what all attacks share: state, failures, shards, outcomes on disk, progress
drawing         from text states to pictures
simplex, adam   primitives of the searches

Every other module is one attack.
"""

from .base import AttackedPrompt, AttackOutcome, AttackTarget, Draw, Judged, JudgePictures
from .config import AttackConfig, Precision
from .progress import AttackProgress, AttackProgressCallback, silent, take
from .registry import WHOLE_MODEL, Access, AttackSpec, Place, attack, attack_named, attacks
from .running import run_attack

__all__ = [
    "WHOLE_MODEL",
    "Access",
    "AttackConfig",
    "AttackOutcome",
    "AttackProgress",
    "AttackProgressCallback",
    "AttackSpec",
    "AttackTarget",
    "AttackedPrompt",
    "Draw",
    "JudgePictures",
    "Judged",
    "Place",
    "Precision",
    "attack",
    "attack_named",
    "attacks",
    "run_attack",
    "silent",
    "take",
]
