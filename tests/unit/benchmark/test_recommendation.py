"""Which method to use: by the rule, or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from diffusers_erasure.benchmark.profiles import ATTACKS
from diffusers_erasure.benchmark.recommendation import Recommendation, recommend, sentences
from diffusers_erasure.benchmark.stored import AttackMarks, CellRecord
from diffusers_erasure.benchmark.variants import BY_SLUG
from diffusers_erasure.evaluation.records import Verdict

from .made_cells import N, cell_record, figures, marks, small_profile

SEEDS = tuple(range(8))


def answers(*cells: CellRecord) -> list[Recommendation]:
    """What is recommended where every variant was trained with each seed alike."""
    every = [cell.model_copy(update={"seed": seed}) for cell in cells for seed in SEEDS]
    variants = (BY_SLUG[slug] for slug in dict.fromkeys(cell.variant for cell in cells))
    return recommend(figures(*every, seeds=SEEDS), small_profile(*variants, attacks=ATTACKS, seeds=SEEDS))


def attacked(
    slug: str,
    typed: int,
    vectors: int = N,
    cost: int | None = 100,
    further: Mapping[str, AttackMarks] = MappingProxyType({}),
    **changes: Any,
) -> CellRecord:
    found = {**dict.fromkeys(ATTACKS, typed), "soft_prompt": vectors, **further}
    return cell_record(slug, attacks=found, unet_evaluations=cost, **changes)


def test_the_most_robust_and_the_cheapest_that_is_not_shown_to_be_worse() -> None:
    typed, vectors = answers(
        attacked("advunlearn", 2, cost=6000, train_seconds=5.0),
        attacked("fast-at", 2, cost=1000, train_seconds=600.0),
        attacked("uce", 3, cost=0, train_seconds=1.0),
    )
    assert typed.robust is not None
    assert typed.cheap is not None
    # UCE is inside the best's interval, but worse in every training; seconds under load say nothing.
    assert (typed.robust.label, typed.cheap.label) == ("AdvUnlearn", "AdvUnlearn fast AT")
    assert vectors.cheap is not None
    assert vectors.cheap.label == "UCE"  # where all are brought back, nothing is worth more than the cheapest
    said = sentences([typed])[0]
    assert "**AdvUnlearn** is brought back least, in 16/160 = 10.0 %" in said
    assert "cheapest that is not shown to be worse is **AdvUnlearn fast AT**" in said
    assert "1,000 UNet evaluations of a training" in said


def test_no_cheapest_is_named_where_nobody_knows() -> None:
    typed, _ = answers(attacked("advunlearn", 2), attacked("uce", 3, cost=None))
    assert typed.robust is not None
    assert typed.cheap is None
    assert "No cheapest is named: the cost of some is not known." in sentences([typed])[0]
    cells = (attacked("advunlearn", 2), attacked("uce", 20))
    profile = small_profile(BY_SLUG["advunlearn"], BY_SLUG["uce"], attacks=ATTACKS)
    single, _ = recommend(figures(*cells), profile)
    assert single.cheap is None
    assert "too few trainings to tell" in sentences([single])[0]


def test_what_keeps_too_little_or_is_not_to_be_believed_is_left_out() -> None:
    own = cell_record("esd").sets
    still = (own[0].model_copy(update={"erased": 5}), *own[1:])
    typed, _ = answers(
        attacked("esd-text-encoder", 0, kept=N - 2),
        attacked("esd", 1, verdict=Verdict.DEGENERATE),
        attacked("trce", 0, further={"p4d": marks(0, verdict=Verdict.BROKEN)}),
        attacked("aegis", 0, sets=still),
        attacked("uce", 15),
    )
    assert typed.robust is not None
    assert (typed.robust.label, typed.dropped) == ("UCE", ("ESD text encoder", "ESD-x", "TRCE", "AEGIS"))
    none, _ = answers(attacked("esd", 1, kept=3))
    assert none.robust is None
    assert "none of the methods erases and keeps what should stay within 3 points" in sentences([none])[0]


def test_there_is_no_answer_while_a_method_misses_an_attack() -> None:
    missing = cell_record("uce", attacks={"unlearndiffatk": 1})
    typed, _ = answers(attacked("advunlearn", 2), missing)
    assert (typed.robust, typed.missing) == (None, ("UCE",))
    assert "not measured yet (1 of the methods still miss cells)" in sentences([typed])[0]
