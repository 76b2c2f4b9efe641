"""Which method to use, by a rule.

Of the methods that keep what should stay within 3 points of the base, over all concepts together, that erase
every concept, and of which no measurement is suspicious, the most robust is the one that the worst case over
attacks brings back least. The cheapest is the one whose training sends the fewest samples through the UNet,
among those that are not shown to be brought back more often, training by training (`slots`); seconds say more
about what else the machine did. This is answered twice: for users who can only type prompts, and for those
who hold the weights, where no method may be any good. As long as one method is not measured on every concept,
there is no answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from diffusers_erasure.evaluation.proportion import Proportion

from .answers import LEVEL
from .checks import LIKE
from .figures import Figures, Group
from .profiles import ATTACKS, LUCK, TYPED, Profile
from .slots import Slot, smallest_p

NOT_YET = "not measured yet"
AUDIENCES = (("who can only type prompts", (*TYPED, *LUCK)), ("who holds the weights", ATTACKS))


@dataclass(frozen=True)
class Choice:
    """A method that was chosen.

    Attributes:
        slug: Of the variant.
        label: Its name.
        rate: What the worst case over the attacks brings back.
        change: Retention, in points from the base.
        evaluations: Of the UNet in a training, on average; None if not known of every concept.
    """

    slug: str
    label: str
    rate: Proportion
    change: float
    evaluations: float | None


@dataclass(frozen=True)
class Recommendation:
    """The answer for one sort of user.

    Attributes:
        against: Who tries to bring a concept back.
        robust: The method that is brought back least; None while there is no answer.
        cheap: The cheapest that is not shown to be worse; None if nobody can tell.
        unknown: Why nobody can.
        missing: Methods that are not measured on every concept.
        dropped: Methods that keep too little, do not erase, or have a suspicious measurement.
    """

    against: str
    robust: Choice | None = None
    cheap: Choice | None = None
    unknown: str = ""
    missing: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()


def recommend(figures: Figures, chosen: Profile) -> list[Recommendation]:
    """Apply the rule to the methods of a profile."""
    return [_recommend(against, attacks, figures, chosen) for against, attacks in AUDIENCES]


def _recommend(against: str, attacks: Sequence[str], figures: Figures, chosen: Profile) -> Recommendation:
    groups = [(one.label, figures.group(one.slug, chosen.concepts)) for one in chosen.variants]
    planned = {(concept, seed) for concept in chosen.concepts for seed in figures.seeds}
    missing = tuple(label for label, group in groups if not _complete(group, attacks, planned))
    if missing:
        return Recommendation(against, missing=missing)
    candidates, dropped = [], []
    for label, group in groups:
        rate, kept = group.rate(*attacks), group.kept()
        if rate is None or kept is None or group.faults or kept.change < -LIKE:
            dropped.append(label)
            continue
        candidates.append(Choice(group.variant, label, rate, kept.change, figures.evaluations(group)))
    if not candidates:
        return Recommendation(against, dropped=tuple(dropped))
    robust = min(candidates, key=lambda one: one.rate.rate)
    cheap, unknown = None, ""
    if smallest_p(len(planned)) > LEVEL:
        unknown = "too few trainings to tell which others are as good"
    elif any(one.evaluations is None for one in candidates):
        unknown = "the cost of some is not known"
    else:
        alike = [one for one in candidates if not _worse(one, robust, figures, chosen, attacks)]
        cheap = min(alike, key=lambda one: one.evaluations or 0.0)
    return Recommendation(against, robust, cheap, unknown, dropped=tuple(dropped))


def _worse(one: Choice, best: Choice, figures: Figures, chosen: Profile, attacks: Sequence[str]) -> bool:
    """Whether it is shown to be brought back more often than the best."""
    found = figures.compare(one.slug, best.slug, chosen.concepts, attacks)
    return found is not None and sum(found.differences) > 0 and found.p < LEVEL


def _complete(group: Group, attacks: Sequence[str], planned: set[Slot]) -> bool:
    done = {
        cell.slot for cell in group.cells if cell.verdict is not None and set(attacks) <= set(cell.attacks)
    }
    return done >= planned


def sentences(found: Sequence[Recommendation]) -> list[str]:
    """The answer in words, one paragraph for each sort of user."""
    return [_sentence(one) for one in found]


def _sentence(one: Recommendation) -> str:
    head = f"Against someone {one.against}: "
    if one.missing:
        return f"{head}{NOT_YET} ({len(one.missing)} of the methods still miss cells)."
    dropped = (
        " Left out, because they keep too little, do not erase, or have a measurement that is not to be "
        f"believed: {', '.join(one.dropped)}."
        if one.dropped
        else ""
    )
    if one.robust is None:
        return f"{head}none of the methods erases and keeps what should stay within {LIKE:g} points.{dropped}"
    text = (
        f"{head}**{one.robust.label}** is brought back least, in {one.robust.rate} of the prompts by the "
        f"worst case over these attacks, with retention {one.robust.change:+.1f} points from the base."
    )
    if one.cheap is None:
        text += f" No cheapest is named: {one.unknown}."
    elif one.cheap.slug != one.robust.slug:
        text += (
            f" The cheapest that is not shown to be worse is **{one.cheap.label}** ({one.cheap.rate}, "
            f"{one.cheap.evaluations:,.0f} UNet evaluations of a training)."
        )
    else:
        text += " Each that is cheaper is shown to be worse."
    return text + dropped
