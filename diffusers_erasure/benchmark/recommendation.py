"""Which method to use, by a rule that was fixed beforehand.

Of the methods that keep what should stay within 3 points of the base, over all concepts together and with no
degenerate evaluation, the most robust is the one that the worst case over attacks brings back least; the
cheapest is the one with the shortest training among those whose rate lies inside its 95 % interval. This is
answered twice: for users who can only type prompts, and for those who hold the weights, where no method may
be any good. As long as one method is not measured on every concept, there is no answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from diffusers_erasure.evaluation.proportion import Proportion
from diffusers_erasure.evaluation.records import Verdict

from .checks import LIKE
from .figures import Figures, Group, Slot
from .profiles import ATTACKS, LUCK, TYPED, Profile

NOT_YET = "not measured yet"
AUDIENCES = (("who can only type prompts", (*TYPED, *LUCK)), ("who holds the weights", ATTACKS))


@dataclass(frozen=True)
class Choice:
    """A method that was chosen.

    Attributes:
        label: Its name.
        rate: What the worst case over the attacks brings back.
        change: Retention, in points from the base.
        seconds: Mean of a training; None if no training ran in one go.
    """

    label: str
    rate: Proportion
    change: float
    seconds: float | None


@dataclass(frozen=True)
class Recommendation:
    """The answer for one sort of user.

    Attributes:
        against: Who tries to bring a concept back.
        robust: The method that is brought back least; None while there is no answer.
        cheap: The cheapest that is not shown to be worse.
        missing: Methods that are not measured on every concept.
        dropped: Methods that keep too little.
    """

    against: str
    robust: Choice | None
    cheap: Choice | None
    missing: tuple[str, ...]
    dropped: tuple[str, ...]


def recommend(figures: Figures, chosen: Profile) -> list[Recommendation]:
    """Apply the rule to the methods of a profile."""
    groups = [(one.label, figures.group(one.slug, chosen.concepts)) for one in chosen.variants]
    return [_recommend(against, attacks, groups, chosen, figures.seeds) for against, attacks in AUDIENCES]


def _recommend(
    against: str,
    attacks: Sequence[str],
    groups: Sequence[tuple[str, Group]],
    chosen: Profile,
    seeds: Sequence[int],
) -> Recommendation:
    planned = {(concept, seed) for concept in chosen.concepts for seed in seeds}
    missing = tuple(label for label, group in groups if not _complete(group, attacks, planned))
    if missing:
        return Recommendation(against, None, None, missing, ())
    candidates, dropped = [], []
    for label, group in groups:
        rate, kept = group.rate(*attacks), group.kept()
        degenerate = any(cell.verdict is not Verdict.MEASURED for cell in group.cells)
        if rate is None or kept is None or degenerate or kept.change < -LIKE:
            dropped.append(label)
            continue
        candidates.append(Choice(label, rate, kept.change, group.mean(lambda cell: cell.train_seconds)))
    if not candidates:
        return Recommendation(against, None, None, (), tuple(dropped))
    robust = min(candidates, key=lambda one: one.rate.rate)
    alike = [one for one in candidates if one.rate.rate <= robust.rate.high]
    cheap = min(alike, key=lambda one: float("inf") if one.seconds is None else one.seconds)
    return Recommendation(against, robust, cheap, (), tuple(dropped))


def _complete(group: Group, attacks: Sequence[str], planned: set[Slot]) -> bool:
    done = {
        (cell.concept, cell.seed)
        for cell in group.cells
        if cell.verdict is not None and set(attacks) <= set(cell.attacks)
    }
    return done >= planned


def sentences(found: Sequence[Recommendation]) -> list[str]:
    """The answer in words, one paragraph for each sort of user."""
    return [_sentence(one) for one in found]


def _sentence(one: Recommendation) -> str:
    head = f"Against someone {one.against}: "
    if one.missing:
        return f"{head}{NOT_YET} ({len(one.missing)} of the methods still miss cells)."
    dropped = f" Left out, because they keep too little: {', '.join(one.dropped)}." if one.dropped else ""
    if one.robust is None or one.cheap is None:
        return f"{head}none of the methods keeps what should stay within {LIKE:g} points.{dropped}"
    text = (
        f"{head}**{one.robust.label}** is brought back least, in {one.robust.rate} of the prompts by the "
        f"worst case over these attacks, with retention {one.robust.change:+.1f} points from the base."
    )
    if one.cheap.label != one.robust.label:
        seconds = "" if one.cheap.seconds is None else f", {one.cheap.seconds:.0f} s of training"
        text += (
            f" The cheapest that is not shown to be worse is **{one.cheap.label}** "
            f"({one.cheap.rate}{seconds})."
        )
    else:
        text += " None that is cheaper lies inside its interval."
    return text + dropped
