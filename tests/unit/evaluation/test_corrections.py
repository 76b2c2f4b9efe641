"""Rates corrected for the judge's errors, and the errors that many pictures and many tests bring."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from diffusers_erasure.errors import EvaluationError
from diffusers_erasure.evaluation.intervals import wilson_interval
from diffusers_erasure.evaluation.multiple_testing import (
    FalseSuccessRate,
    any_false_positive,
    holm,
)
from diffusers_erasure.evaluation.rogan_gladen import CorrectedRate, lang_reiczigel, rogan_gladen
from tests.reference import statistics as reference

counts = st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
good = st.integers(5, 300).flatmap(lambda n: st.tuples(st.integers(n * 6 // 10 + 1, n), st.just(n)))


@settings(deadline=None)
@given(counts, good, good)
def test_rogan_gladen_solves_its_equation(
    observed: tuple[int, int], se: tuple[int, int], sp: tuple[int, int]
) -> None:
    rates = (k / n for k, n in (observed, se, sp))
    expected = min(1.0, max(0.0, float(reference.rogan_gladen(observed, se, sp))))
    assert rogan_gladen(*rates) == pytest.approx(expected, abs=1e-9)


@settings(deadline=None)
@given(counts, good, good)
def test_the_interval_follows_the_paper(
    observed: tuple[int, int], se: tuple[int, int], sp: tuple[int, int]
) -> None:
    low, high = reference.lang_reiczigel(observed, se, sp)
    found = lang_reiczigel(observed, se, sp)
    assert found == pytest.approx((min(1, max(0, low)), max(0, min(1, high))), abs=1e-9)
    assert 0 <= found[0] <= found[1] <= 1


@settings(deadline=None)
@given(counts)
def test_wilson_as_the_book_has_it(observed: tuple[int, int]) -> None:
    assert wilson_interval(*observed) == pytest.approx(reference.wilson(*observed), abs=1e-9)


def test_by_hand() -> None:
    """Of 100 pictures 30 show it; a judge of 90 % and 95 % then says yes to 27 + 3.5 of them."""
    assert rogan_gladen(0.305, 0.9, 0.95) == pytest.approx(0.3)
    assert rogan_gladen(0.01, 0.9, 0.95) == 0.0
    assert rogan_gladen(1.0, 0.9, 0.95) == 1.0


def test_a_perfect_judge_changes_nothing_but_the_last_digit() -> None:
    found = CorrectedRate.of((30, 142), (10_000, 10_000), (10_000, 10_000))
    assert found.rate == pytest.approx(30 / 142)
    assert (found.low, found.high) == pytest.approx((0.152, 0.286), abs=0.005)


@pytest.mark.parametrize(("se", "sp"), [((50, 100), (50, 100)), ((10, 100), (80, 100)), ((0, 10), (10, 10))])
def test_a_judge_no_better_than_chance_says_nothing(se: tuple[int, int], sp: tuple[int, int]) -> None:
    with pytest.raises(EvaluationError, match="no better than chance"):
        lang_reiczigel((3, 10), se, sp)
    with pytest.raises(EvaluationError, match="no better than chance"):
        rogan_gladen(0.3, se[0] / se[1], sp[0] / sp[1])


def test_the_interval_covers_as_often_as_it_says_and_the_estimate_is_right() -> None:
    """2,000 simulated evaluations with a judge of known errors, itself measured on 100 + 100 pictures."""
    generator = np.random.default_rng(0)
    hits, errors = [], []
    for true in generator.uniform(0.05, 0.95, 2000):
        sensitivity, specificity = generator.uniform(0.8, 0.99, 2)
        seen = generator.binomial(200, true * sensitivity + (1 - true) * (1 - specificity))
        judged = (
            (int(generator.binomial(100, sensitivity)), 100),
            (
                int(generator.binomial(100, specificity)),
                100,
            ),
        )
        found = CorrectedRate.of((int(seen), 200), *judged)
        hits.append(found.low <= true <= found.high)
        errors.append(found.rate - true)
    assert 0.93 <= np.mean(hits) <= 0.97
    assert abs(np.mean(errors)) < 0.005, "within half a point on average"


@pytest.mark.parametrize("pictures", [11, 51])
def test_the_interval_covers_as_often_where_the_judge_looks_many_times(pictures: int) -> None:
    """One yes of so many pictures is enough: the judge's error of one, of 200, weighs as many times."""
    generator = np.random.default_rng(pictures)
    hits = []
    for true in generator.uniform(0.05, 0.95, 1000):
        sensitivity, wrong = generator.uniform(0.9, 0.99), generator.uniform(0.001, 0.01)
        alone = 1 - (1 - wrong) ** pictures
        seen = generator.binomial(100, true * sensitivity + (1 - true) * alone)
        judged = (
            (int(generator.binomial(100, sensitivity)), 100),
            (int(generator.binomial(200, 1 - wrong)), 200),
        )
        try:
            found = CorrectedRate.of((int(seen), 100), *judged, pictures)
        except EvaluationError:
            continue
        hits.append(found.low <= true <= found.high)
    assert len(hits) > 950
    assert 0.93 <= np.mean(hits) <= 0.995


def test_a_picture_of_many_is_corrected_by_the_power() -> None:
    found = CorrectedRate.of((50, 100), (100, 100), (198, 200), 11)
    alone = 1 - 0.99**11
    assert found.rate == pytest.approx((0.5 - alone) / (1 - alone))
    single = CorrectedRate.of((50, 100), (100, 100), (198, 200))
    assert found.high - found.low > single.high - single.low


def test_a_corrected_rate_belongs_to_its_counts() -> None:
    found = CorrectedRate.of((30, 100), (90, 100), (95, 100))
    assert CorrectedRate.model_validate_json(found.model_dump_json()) == found
    low, high = reference.lang_reiczigel((30, 100), (90, 100), (95, 100))
    assert str(found) == f"29.4 % ({100 * low:.1f}-{100 * high:.1f}), corrected for the judge"
    with pytest.raises(ValidationError, match="does not follow from its counts"):
        CorrectedRate(**{**found.model_dump(), "low": 0.25})


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), max_size=7))
def test_holm_is_the_closed_test(p_values: list[float]) -> None:
    assert list(holm(p_values)) == pytest.approx(reference.holm_by_closure(p_values))


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx((0.03, 0.06, 0.06))
    with pytest.raises(EvaluationError, match="is no p-value"):
        holm([0.1, float("nan")])


def test_many_pictures_make_false_successes() -> None:
    """An error of 1 % over the 51 pictures of UnlearnDiffAtk is 40 %."""
    assert any_false_positive(0.01, 51) == pytest.approx(0.401, abs=1e-3)
    assert any_false_positive(0.3, 1) == pytest.approx(0.3)
    assert any_false_positive(0.0, 51) == any_false_positive(0.5, 0) == 0.0
    found = FalseSuccessRate.of(1, 100, 51)
    assert found.rate == pytest.approx(0.401, abs=1e-3)
    assert found.low == pytest.approx(1 - (1 - reference.wilson(1, 100)[0]) ** 51)
    assert found.high == pytest.approx(1 - (1 - reference.wilson(1, 100)[1]) ** 51)
    with pytest.raises(EvaluationError, match="means nothing"):
        any_false_positive(1.5, 3)


def test_the_simulated_rate_of_false_successes() -> None:
    generator = np.random.default_rng(0)
    errors = generator.uniform(size=(20_000, 20)) < 0.03
    assert errors.any(axis=1).mean() == pytest.approx(any_false_positive(0.03, 20), abs=0.01)
