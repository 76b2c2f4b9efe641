"""The pictures that are attached to an artifact, with what they show in words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .markdown import plain

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif")
_KNOWN = {
    "grid.png": (
        "the same prompts and seeds drawn before and after the erasure of {concepts}",
        "The same prompts and seeds, before and after, and under attack where attacks were run. Examples, "
        "not evidence: the counts are below.",
    ),
    "attack.png": (
        "pictures before the erasure of {concepts}, after it, and under attack",
        "Before, after, and under attack.",
    ),
    "asr.png": (
        "share of prompts that bring {concepts} back, by attack and by pictures that the judge was shown",
        "Attack success by pictures that the judge was shown.",
    ),
    "reactivation.png": (
        "what brings {concepts} back: pictures after each manipulation of the erased weights",
        "Pictures after each manipulation of the table of what brings it back.",
    ),
}


@dataclass(frozen=True)
class Picture:
    """A picture by its relative path, with its alternative text and a caption, both Markdown."""

    name: str
    alt: str
    caption: str


def pictures(names: Iterable[str], concepts: str) -> tuple[Picture, ...]:
    """The pictures among some file names, those that are known first.

    Args:
        names: Names of attachments.
        concepts: The erased concepts, as Markdown.
    """
    found = [name for name in names if name.lower().endswith(SUFFIXES)]
    order = {name: index for index, name in enumerate(_KNOWN)}
    return tuple(
        _picture(name, concepts) for name in sorted(found, key=lambda name: (order.get(name, 99), name))
    )


def _picture(name: str, concepts: str) -> Picture:
    alt, caption = _KNOWN.get(name, ("{name}, a picture about the erasure of {concepts}", "{name}"))
    filled = {"name": plain(name), "concepts": concepts}
    return Picture(name, alt.format(**filled), caption.format(**filled))
