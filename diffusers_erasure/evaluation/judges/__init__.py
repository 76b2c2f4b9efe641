"""Judges decide what a picture shows. A judge is one file: it registers itself with `@judge(...)`.

A *panel* is a family of judges for one kind of picture: one that names concepts, one that names styles if
there is one, and a second concept judge of another architecture for agreement. Packages add theirs through
the entry-point group `diffusers_erasure.judges`, whose entries name modules that register on import.
"""

from .base import Judge, Verdicts, to_unit_range
from .registry import ENTRY_POINT_GROUP, JudgeSpec, Panel, judge, judges, load_panel

__all__ = [
    "ENTRY_POINT_GROUP",
    "Judge",
    "JudgeSpec",
    "Panel",
    "Verdicts",
    "judge",
    "judges",
    "load_panel",
    "to_unit_range",
]
