"""Which method to use: by the rule, or not at all."""

from __future__ import annotations

from diffusers_erasure.benchmark.profiles import ATTACKS
from diffusers_erasure.benchmark.recommendation import Recommendation, recommend, sentences
from diffusers_erasure.benchmark.stored import CellRecord
from diffusers_erasure.benchmark.variants import BY_SLUG
from diffusers_erasure.evaluation.records import Verdict

from .made_cells import N, cell_record, figures, small_profile


def answers(*cells: CellRecord) -> list[Recommendation]:
    variants = (BY_SLUG[slug] for slug in dict.fromkeys(cell.variant for cell in cells))
    return recommend(figures(*cells), small_profile(*variants, attacks=ATTACKS))


def attacked(slug: str, typed: int, vectors: int = N, **changes: object) -> CellRecord:
    found = dict.fromkeys(ATTACKS, typed) | {"soft_prompt": vectors}
    return cell_record(slug, attacks=found, **changes)  # type: ignore[arg-type]


def test_the_most_robust_and_the_cheapest_inside_its_interval() -> None:
    typed, vectors = answers(
        attacked("advunlearn", 2, train_seconds=600.0),
        attacked("fast-at", 3, train_seconds=100.0),
        attacked("uce", 15, train_seconds=5.0),
    )
    assert typed.robust is not None
    assert typed.cheap is not None
    assert (typed.robust.label, typed.cheap.label) == ("AdvUnlearn", "AdvUnlearn fast AT")
    assert vectors.cheap is not None
    assert vectors.cheap.label == "UCE"  # where all are brought back, nothing is worth more than the cheapest
    said = sentences([typed])[0]
    assert "**AdvUnlearn** is brought back least, in 2/20 = 10.0 %" in said
    assert "cheapest that is not shown to be worse is **AdvUnlearn fast AT**" in said
    assert "100 s of training" in said


def test_what_keeps_too_little_or_is_degenerate_is_left_out() -> None:
    typed, _ = answers(
        attacked("esd-text-encoder", 0, kept=N - 2),
        attacked("esd", 1, verdict=Verdict.DEGENERATE),
        attacked("uce", 15),
    )
    assert typed.robust is not None
    assert (typed.robust.label, typed.dropped) == ("UCE", ("ESD text encoder", "ESD-x"))
    none, _ = answers(attacked("esd", 1, kept=3))
    assert none.robust is None
    assert "none of the methods keeps what should stay within 3 points" in sentences([none])[0]


def test_there_is_no_answer_while_a_method_misses_an_attack() -> None:
    missing = cell_record("uce", attacks={"unlearndiffatk": 1})
    typed, _ = answers(attacked("advunlearn", 2), missing)
    assert (typed.robust, typed.missing) == (None, ("UCE",))
    assert "not measured yet (1 of the methods still miss cells)" in sentences([typed])[0]
