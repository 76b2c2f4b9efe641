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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev

from diffusers_erasure.evaluation.proportion import Proportion

Slot = tuple[str, int]
"""A concept and a training seed."""
DRAWS = 100_000
"""Assignments of signs that are drawn where there are more than so many to go through."""


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
    """Two-sided p of the sign-flip test: exact up to 16 slots, else of seeded draws."""
    from scipy import stats  # type: ignore[import-untyped]

    if len(differences) < 2:
        return 1.0
    found = stats.permutation_test(
        (differences,),
        lambda flipped, axis: flipped.sum(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=DRAWS,
        rng=0,
    )
    return float(found.pvalue)


def smallest_p(slots: int) -> float:
    """What the test gives at best, where every one of so many slots differs the same way."""
    return min(1.0, 2.0 ** (1 - slots))


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of a mean over slots; None of a single one.

    Student's t over slots, and no bootstrap of them: there are 3 to 15, and drawing so few again and again
    gives intervals that are too narrow, which t corrects for. Slots count alike, as they have as many
    pictures.
    """
    from scipy import stats

    if len(values) < 2:
        return None
    mean, spread = fmean(values), stdev(values) / sqrt(len(values))
    half = float(stats.t.ppf(0.975, len(values) - 1)) * spread
    return mean - half, mean + half
