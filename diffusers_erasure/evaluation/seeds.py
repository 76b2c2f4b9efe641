"""Seeds: at least three for every prompt, and a rate for each of them. Needs no torch.

A rate from one seed says what one seed drew. The pictures of a set are therefore dealt into three groups, so
that every prompt is in each of them, with other seeds; a report shows the lowest and the highest rate of a
group, never the best alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pydantic import Field

from .proportion import Proportion
from .records import NOT_MEASURED, NotMeasured, Record
from .worst_case import counted

SEED_GROUPS = 3
"""Generation seeds that every prompt needs, and training seeds that a method needs."""


class SeedSpread(Record):
    """The same prompts with other seeds: one rate per group of seeds, never the best of them."""

    groups: tuple[Proportion, ...] = Field(min_length=SEED_GROUPS)

    @property
    def lowest(self) -> float:
        """Lowest rate of a group."""
        return min(group.rate for group in self.groups)

    @property
    def highest(self) -> float:
        """Highest rate of a group."""
        return max(group.rate for group in self.groups)


def seed_spread(prompts: Sequence[str], marks: str) -> SeedSpread | NotMeasured:
    """The rate per group of seeds: every prompt is in each group, with other seeds.

    Args:
        prompts: The prompt of each picture; every picture has a seed of its own.
        marks: One per picture.

    Returns:
        "not measured" if a prompt was drawn with fewer than three seeds.
    """
    seen: Counter[str] = Counter()
    parts = [""] * SEED_GROUPS
    for prompt, mark in zip(prompts, marks, strict=True):
        parts[seen[prompt] % SEED_GROUPS] += mark
        seen[prompt] += 1
    if min(seen.values()) < SEED_GROUPS:
        return NOT_MEASURED
    return SeedSpread(groups=tuple(Proportion.of(counted(part), len(part)) for part in parts))


def few_seeds_flags(prompts: Sequence[str]) -> list[str]:
    """What a reader must be told about prompts that were drawn with fewer than three seeds.

    Args:
        prompts: The prompt of each picture; every picture has a seed of its own.
    """
    few = sum(count < SEED_GROUPS for count in Counter(prompts).values())
    if not few:
        return []
    return [
        f"few seeds: {few} of {len(set(prompts))} prompts were drawn with fewer than {SEED_GROUPS} seeds, so "
        "no spread over seeds is known; draw more pictures"
    ]
