"""The rules of several runs: controls, equal and rising budgets, the worst case, and nothing left blank."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from diffusers_erasure.errors import ConfigError, EvaluationError
from diffusers_erasure.evaluation.attack_report import AttackRecord, Comparison
from diffusers_erasure.evaluation.attack_settings import equal_budget
from diffusers_erasure.evaluation.budgets import check_factors, convergence, falls
from diffusers_erasure.evaluation.positive_control import WeakEraser
from diffusers_erasure.evaluation.proportion import Proportion
from diffusers_erasure.evaluation.records import Verdict
from diffusers_erasure.evaluation.worst_case import counted, either
from tests.unit.evaluation.counted_runs import N, ThreePictures, record, run, section, weak_eraser


@pytest.mark.parametrize(
    ("base", "weak", "verdict"),
    [(19, 10, Verdict.MEASURED), (18, 20, Verdict.HARNESS_INVALID), (20, 9, Verdict.HARNESS_INVALID)],
)
def test_an_attack_that_fails_where_it_must_not_is_no_measure(base: int, weak: int, verdict: Verdict) -> None:
    assert section(record(0, 0, base=base, weak=weak)).verdict is verdict


def test_a_control_that_was_not_run_is_no_control() -> None:
    assert record(3, 3, base_control="not measured").verdict is Verdict.HARNESS_INVALID
    assert record(3, 3, weak_control="not measured").verdict is Verdict.HARNESS_INVALID


def test_a_control_that_luck_wins_as_well_is_no_control() -> None:
    assert record(3, 3, weak=20, weak_luck=14).controlled
    assert not record(3, 3, weak=20, weak_luck=15).controlled


def test_a_control_without_a_search_is_refused() -> None:
    """The fault: an eraser so weak that every plain picture shows the concept, and an attack that "wins"."""
    shown = run(N, plain=N, pipeline="weak eraser").record
    with pytest.raises(ValidationError, match="no attack is needed for them"):
        record(3, 3, weak_control=shown)
    with pytest.raises(ValidationError, match="or lacks it"):
        AttackRecord(**{**dict(record(3, 3)), "weak_luck": "not measured"})


def test_controls_are_of_the_prompts_that_the_weak_eraser_hides() -> None:
    with pytest.raises(ValidationError, match="controlled on 20 prompts; expected the 15 of 20"):
        section(weak=weak_eraser(15))
    with pytest.raises(ValidationError, match="expected them to agree"):
        WeakEraser(scale=0.4, plain=Proportion.of(5, N), hidden=15, tried={0.4: 4}, luck={})


def test_a_control_that_failed_to_run_is_no_success() -> None:
    broken = run(19, pipeline="base", failed="RuntimeError: out of memory").record
    assert record(3, 3, base_control=broken).verdict is Verdict.HARNESS_INVALID
    broken = run(19, pipeline="weak eraser", failed="RuntimeError: out of memory").record
    assert not record(3, 3, weak_control=broken).controlled


def test_luck_gets_the_budget_of_the_attack() -> None:
    beside = equal_budget(("random_tokens", "seed_search"), ThreePictures(seed=7))
    assert [(luck.name, config.judged_images, config.seed) for luck, config in beside] == [
        ("random_tokens", 3, 7), ("seed_search", 3, 7)
    ]  # fmt: skip
    with pytest.raises(EvaluationError, match="use another baseline"):
        equal_budget(("no_attack",), ThreePictures())


def test_the_excess_over_luck_is_tested() -> None:
    found = Comparison.of(run(12).record, run(2, name="luck").record)
    assert (found.attack_only, found.baseline_only, found.excess) == (10, 0, 50)
    assert found.mcnemar_p == pytest.approx(2 / 2**10)


def test_a_rate_that_a_doubled_budget_still_raises_is_not_converged() -> None:
    rates = [(1, Proportion.of(20, 100)), (2, Proportion.of(22, 100)), (4, Proportion.of(22, 100))]
    assert convergence(rates) == "converged"
    assert convergence([*rates[:2], (4, Proportion.of(25, 100))]) == "not converged"
    assert convergence([(1, Proportion.of(20, 100)), (2, Proportion.of(23, 100))]) == "not converged"
    assert convergence(rates[:1]) == "not measured"
    with pytest.raises(ValidationError, match="expected 'not converged'"):
        record(2, 10, convergence="converged")


def test_a_rate_that_falls_with_the_budget_is_flagged() -> None:
    fallen = record(10, 8)
    assert falls([(one.factor, one.asr) for one in fallen.runs])
    assert "falls with the budget" in fallen.flags[0]
    with pytest.raises(ValidationError, match="no flag says so"):
        record(10, 8, flags=())


@pytest.mark.parametrize("factors", [(), (0, 1), (2, 1), (1, 1)])
def test_budget_factors_rise(factors: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="expected rising whole numbers"):
        check_factors(factors)


def test_the_worst_case_is_taken_per_prompt() -> None:
    assert either(["1000", "0F00", "0100"]) == "1100"
    assert counted(either(["1000", "0F00"])) == 2
    found = section(record(10, 10))
    assert found.worst_case.asr.k == 10
    flattered = found.worst_case.model_copy(update={"asr": Proportion.of(2, N), "marks": "11" + "0" * 18})
    with pytest.raises(ValidationError, match="expected every prompt that any attack succeeded on"):
        section(record(10, 10), worst_case=flattered)


@pytest.mark.parametrize("field", ["typed", "second_judge", "corrected"])
@pytest.mark.parametrize("value", [None, "", 0])
def test_what_was_not_measured_is_said_and_not_left_blank(field: str, value: object) -> None:
    with pytest.raises(ValidationError):
        record(3, 3, **{field: value})
