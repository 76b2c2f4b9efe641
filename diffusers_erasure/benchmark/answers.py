"""What a rule finds, and when it may be said.

    yes            shown, or inside the margin
    agrees         too few trainings to show anything, and none of them goes the other way
    no             not shown, or the other way
    undecided      nothing differs, or what it is compared with is no erasure
    open           a planned training is missing

A rule with a test is "yes" if the difference goes the way that the paper says and its adjusted p is under
0.05. Where so few trainings are planned that p could never be that small, only the direction is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from .figures import Figures, Group
from .slots import Contrast, mean_interval, sign_flip
from .variants import BY_SLUG

LEVEL = 0.05
NOTHING = "no figures yet"


class Holds(StrEnum):
    """Whether a rule does."""

    YES = "yes"
    AGREES = "agrees"
    NO = "no"
    UNDECIDED = "undecided"
    OPEN = "open"


@dataclass(frozen=True)
class Tested:
    """Differences of trainings, to be tested.

    Attributes:
        toward: Of each training; above 0 is the way that the paper says.
        far: Whether the mean difference goes that way, as far as the rule asks.
    """

    toward: tuple[float, ...]
    far: bool

    @property
    def p(self) -> float:
        """Two-sided, of the sign flips."""
        return sign_flip(self.toward)

    def by_test(self, adjusted: float) -> Holds:
        """With enough trainings for a test."""
        return Holds.YES if self.far and adjusted < LEVEL else Holds.NO

    def by_direction(self) -> Holds:
        """With too few: at least two trainings go the paper's way and none the other."""
        agree, against = (sum(sign * one > 0 for one in self.toward) for sign in (1, -1))
        if against:
            return Holds.NO
        if agree < 2:
            return Holds.UNDECIDED
        return Holds.AGREES if self.far else Holds.NO

    @property
    def direction(self) -> str:
        """In how many trainings it goes the paper's way."""
        return f"the paper's way in {sum(one > 0 for one in self.toward)} of {len(self.toward)} trainings"


@dataclass(frozen=True)
class Answer:
    """What a rule finds.

    Attributes:
        holds: None where a test decides, with what is known of the whole page.
        words: The figures.
        tested: What is tested.
    """

    holds: Holds | None
    words: str
    tested: Tested | None = None

    def settled(self, adjusted: float | None) -> Holds:
        """Whether the rule holds.

        Args:
            adjusted: Its p among all tests of the page; None where there are too few trainings for a test.
        """
        if self.holds is not None or self.tested is None:
            return self.holds or Holds.OPEN
        return self.tested.by_direction() if adjusted is None else self.tested.by_test(adjusted)


def answered(found: Contrast, sign: int, unit: str = " points", *, far: bool = True) -> Answer:
    """A test of two sides over trainings.

    Args:
        found: Both sides.
        sign: 1 if the paper says that the first has more, -1 if less.
        unit: Of the differences.
        far: Whether the mean difference is as far as the rule asks.
    """
    toward = tuple(sign * one for one in found.differences)
    tested = Tested(toward, far and sum(toward) > 0)
    apart = interval_words(found.differences, unit)
    return Answer(None, f"{found.words}: {apart}; {tested.direction}, p = {tested.p:.2g}", tested)


def interval_words(differences: Sequence[float], unit: str = " points") -> str:
    """The mean of differences over trainings, with its 95 % interval."""
    form = "{:+.1f}" if unit else "{:+.4f}"
    mean = sum(differences) / len(differences)
    bounds = mean_interval(differences)
    between = "" if bounds is None else f" ({' to '.join(form.format(one) for one in bounds)})"
    return f"{form.format(mean)}{unit}{between}"


def blocked(
    figures: Figures,
    first: str,
    other: str | None,
    concepts: Sequence[str],
    attacks: Sequence[str],
    *,
    of_robustness: bool = True,
) -> Answer | None:
    """Why a rule cannot be held against the figures.

    Trainings are missing; or the first variant is broken or erases nothing, which is no merit; or the other
    is, so that there is nothing to compare with.
    """
    there = 0
    faults: dict[str, list[str]] = {slug: [] for slug in (first, other) if slug is not None}
    for concept in concepts:
        groups = {slug: figures.group(slug, (concept,)) for slug in faults}
        ready = set.intersection(*(_ready(one, attacks) for one in groups.values()))
        there += len(ready & set(figures.seeds))
        for slug, group in groups.items():
            if group.faults:
                faults[slug].append(f"{label(slug)} on {concept} is {' and '.join(group.faults)}")
    planned = len(concepts) * len(figures.seeds)
    if there < planned:
        return Answer(Holds.OPEN, f"{there} of {planned} trainings are there")
    if of_robustness and faults[first]:
        return Answer(Holds.NO, f"{'; '.join(faults[first])}: such a rate means nothing")
    if of_robustness and other is not None and faults[other]:
        return Answer(Holds.UNDECIDED, f"{'; '.join(faults[other])}: nothing to compare with")
    return None


def _ready(group: Group, attacks: Sequence[str]) -> set[int]:
    return {cell.seed for cell in group.cells if cell.verdict and set(attacks) <= set(cell.attacks)}


def label(slug: str) -> str:
    """A variant for a person."""
    return BY_SLUG[slug].label
