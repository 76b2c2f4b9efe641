"""What comes of each claim, with all tests of the page adjusted together.

The tests that count are those that are *planned*, measured or not: one that is open counts with p = 1, so
that figures that come later can only make an adjusted p smaller, and never take a "confirmed" back. A rule
with so few planned trainings that its p could not get under the level even if every test of the page came out
as clear as it can is no test: of it only the direction is said, and it has no part in the adjustment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from diffusers_erasure.evaluation.multiple_testing import holm

from .answers import LEVEL, Answer, Holds
from .checks import Check
from .claims import CLAIMS, Claim
from .figures import Figures
from .slots import smallest_p

RULES_CHANGED = (
    "The rules were last changed on 2026-11-23, after a review of their statistics, when figures of "
    "AdvUnlearn, fast AT and ESD of training seed 0 and most of seed 1 were there, and none of the other "
    "methods'."
)


class Status(StrEnum):
    """What came of a claim."""

    CONFIRMED = "confirmed"
    AGREES = "agrees with the paper"
    NOT_CONFIRMED = "not confirmed"
    UNDECIDED = "undecided"
    OPEN = "not measured yet"


_WORST_FIRST = (
    (Holds.NO, Status.NOT_CONFIRMED),
    (Holds.OPEN, Status.OPEN),
    (Holds.UNDECIDED, Status.UNDECIDED),
    (Holds.AGREES, Status.AGREES),
)
_MARKS: Mapping[Status, str] = {
    Status.NOT_CONFIRMED: "no",
    Status.OPEN: Status.OPEN.value,
    Status.UNDECIDED: Status.UNDECIDED.value,
    Status.AGREES: "yes",
    Status.CONFIRMED: "yes",
}
"""What an ablation is marked with, worst first."""


@dataclass(frozen=True)
class Reason:
    """What came of a rule.

    Attributes:
        rule: In words.
        holds: Whether it does.
        words: The figures.
        adjusted: Its p among all tests of the page; None if it has none.
    """

    rule: str
    holds: Holds
    words: str
    adjusted: float | None


@dataclass(frozen=True)
class Settled:
    """What came of a claim, and why.

    Attributes:
        claim: The claim.
        status: What came of it.
        reasons: For each rule.
    """

    claim: Claim
    status: Status
    reasons: tuple[Reason, ...]


def settle(figures: Figures, claims: Sequence[Claim] = CLAIMS) -> list[Settled]:
    """Ask every rule, adjust all tests together (Holm), and say what came of each claim."""
    asked = [[(check, check.ask(figures, claim.concepts)) for check in claim.checks] for claim in claims]
    planned = [
        (smallest_p(len(claim.concepts) * len(figures.seeds)), answer)
        for claim, answers in zip(claims, asked, strict=True)
        for check, answer in answers
        if check.tests
    ]
    at_best = holm([least for least, _ in planned])
    family = [answer for (_, answer), best in zip(planned, at_best, strict=True) if best < LEVEL]
    found = holm([1.0 if answer.tested is None else answer.tested.p for answer in family])
    adjusted = dict(zip(map(id, family), found, strict=True))
    return [_settled(claim, answers, adjusted) for claim, answers in zip(claims, asked, strict=True)]


def _settled(claim: Claim, answers: Sequence[tuple[Check, Answer]], adjusted: Mapping[int, float]) -> Settled:
    reasons = []
    for check, answer in answers:
        p = None if answer.tested is None else adjusted.get(id(answer))
        reasons.append(Reason(check.rule, answer.settled(p), answer.words, p))
    results = [one.holds for one in reasons]
    status = next((status for holds, status in _WORST_FIRST if holds in results), Status.CONFIRMED)
    return Settled(claim, status, tuple(reasons))


def marks(settled: Sequence[Settled], slugs: Sequence[str]) -> dict[str, str]:
    """For each variant but the first, which is the whole method, whether its ablation agrees with the paper.

    A claim is of a variant if one of its rules names it, and all rules name variants of the same table.
    """
    found = {}
    for slug in slugs[1:]:
        about = [one.status for one in settled if slug in _named(one.claim) <= set(slugs)]
        found[slug] = next((words for status, words in _MARKS.items() if status in about), "no claim of it")
    return found


def _named(claim: Claim) -> set[str]:
    fields = ("first", "second", "variant")
    found = (getattr(check, field, None) for check in claim.checks for field in fields)
    return {one for one in found if isinstance(one, str)}
