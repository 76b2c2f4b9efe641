"""Which places of a model an artifact edits, and whether attacks went through them."""

from __future__ import annotations

from collections.abc import Sequence

from diffusers_erasure.artifacts.artifact import Artifact
from diffusers_erasure.attacks import AttackSpec, Place, attacks

from .adaptive import Adaptivity

CROSS_ATTENTION = "attn2"
"""The cross-attention of a transformer block, as diffusers names it."""


def edited_places(artifact: Artifact) -> tuple[Place, ...]:
    """The places whose weights an artifact changes, in the order of `Place`."""
    found: set[Place] = set()
    for component, edit in artifact.edits.items():
        if component != "unet":
            found.add(Place.TEXT_ENCODER)
            continue
        for name in edit.targets:
            found.add(Place.CROSS_ATTENTION if CROSS_ATTENTION in name.split(".") else Place.UNET)
    return tuple(place for place in Place if place in found)


def adaptivity(artifact: Artifact, run: Sequence[AttackSpec]) -> Adaptivity:
    """Whether each place that an artifact edits was attacked, and what would attack the others.

    Args:
        artifact: The erasure.
        run: The attacks that were run.
    """
    edited = edited_places(artifact)
    missing = set(edited) - {place for spec in run for place in spec.through}
    known = [spec for spec in attacks().values() if spec.through & missing]
    enough = [spec for spec in known if spec.through >= missing] or known
    return Adaptivity(
        edited=tuple(place.value for place in edited),
        through={spec.name: tuple(place.value for place in Place if place in spec.through) for spec in run},
        candidates=tuple(spec.name for spec in enough),
    )
