"""Two variants compared by what their trainings differ in.

The unit is a *slot*: one concept and one training seed. The pictures of one training share its weights, so
they are many looks at one draw; a test that takes each picture by itself finds differences between equal
variants, because any two trainings differ. Here each slot that both variants have gives one difference, and
the pictures in it only make that difference more exact.

If two variants were alike, the difference of a slot would as well have had the other sign. So p is the share
of all assignments of signs whose sum is as far from 0 as the one that was found (Fisher, The Design of
Experiments, 1935, section 21). With m slots it is never under 2^(1-m): three trainings cannot show anything.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import atan, cos, pi, sin, sqrt
from statistics import fmean, stdev

from diffusers_erasure.evaluation.proportion import Proportion

Slot = tuple[str, int]
"""A concept and a training seed."""
MOST_ENUMERATED = 16
DRAWS = 100_000
"""Assignments that are drawn where there are too many to go through."""


@dataclass(frozen=True)
class Contrast:
    """Two sides over the slots that both have.

    Attributes:
        first: Of each slot, in points for a rate.
        second: The same of the other side.
        words: Both sides for a person.
    """

    first: tuple[float, ...]
    second: tuple[float, ...]
    words: str

    @property
    def differences(self) -> tuple[float, ...]:
        """First minus second, of each slot."""
        return tuple(a - b for a, b in zip(self.first, self.second, strict=True))

    @property
    def p(self) -> float:
        """Two-sided, of the sign flips."""
        return sign_flip(self.differences)

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the mean difference; None of a single slot."""
        return mean_interval(self.differences)


def contrast(first: Mapping[Slot, Proportion], second: Mapping[Slot, Proportion]) -> Contrast | None:
    """Rates of two sides, on slots that both have; None without any."""
    shared = [slot for slot in first if slot in second]
    if not shared:
        return None
    one, other = ([side[slot] for slot in shared] for side in (first, second))
    pooled = [Proportion.pooled(side) for side in (one, other)]
    words = " against ".join(f"{side.k}/{side.n}" for side in pooled)
    return Contrast(tuple(100 * part.rate for part in one), tuple(100 * part.rate for part in other), words)


def contrast_of_values(
    first: Mapping[Slot, float], second: Mapping[Slot, float], form: str
) -> Contrast | None:
    """The same of numbers that are no rates.

    Args:
        first: Of each slot.
        second: Of each slot.
        form: How a mean is written, such as `{:.3f}`.
    """
    shared = [slot for slot in first if slot in second]
    if not shared:
        return None
    one, other = (tuple(side[slot] for slot in shared) for side in (first, second))
    return Contrast(one, other, " against ".join(form.format(fmean(side)) for side in (one, other)))


def sign_flip(differences: Sequence[float]) -> float:
    """Two-sided p of the sign-flip test: exact up to 16 slots that differ, else of seeded draws."""
    sizes = [abs(one) for one in differences if one]
    rounding = 1e-9 * sum(sizes)
    found = abs(sum(differences)) - rounding
    if len(sizes) <= MOST_ENUMERATED:
        sums = [0.0]
        for size in sizes:
            sums = [total + signed for total in sums for signed in (size, -size)]
        return sum(abs(total) >= found for total in sums) / len(sums)
    generator = random.Random(0)
    hits = sum(
        abs(sum(size if generator.random() < 0.5 else -size for size in sizes)) >= found for _ in range(DRAWS)
    )
    return (1 + hits) / (1 + DRAWS)


def smallest_p(slots: int) -> float:
    """What the test gives at best, where every one of so many slots differs the same way."""
    return min(1.0, 2.0 ** (1 - slots))


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of a mean over slots; None of a single one.

    Student's t over slots, and no bootstrap of them: there are 3 to 15, and drawing so few again and again
    gives intervals that are too narrow, which t corrects for. Slots count alike, as they have as many
    pictures.
    """
    if len(values) < 2:
        return None
    half = t_quantile(len(values) - 1) * stdev(values) / sqrt(len(values))
    return fmean(values) - half, fmean(values) + half


def t_quantile(freedom: int) -> float:
    """Quantile of Student's t that leaves 2.5 % on each side, by bisection.

    Args:
        freedom: Degrees of freedom, 1 or more.
    """
    low, high = 1.9, 13.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if _inside(middle, freedom) < 0.95 else (low, middle)
    return high


def _inside(t: float, freedom: int) -> float:
    """P(|T| < t), in closed form (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    angle = atan(t / sqrt(freedom))
    odd = freedom % 2
    term, total = (cos(angle) if odd else 1.0), 0.0
    for index in range(freedom // 2):
        total += term
        step = (2 * index + 2) / (2 * index + 3) if odd else (2 * index + 1) / (2 * index + 2)
        term *= step * cos(angle) ** 2
    return 2 / pi * (angle + sin(angle) * total) if odd else sin(angle) * total
