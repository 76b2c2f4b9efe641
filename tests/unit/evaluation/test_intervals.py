"""k of n: against literal formulas, published numbers, and a simulation of the coverage."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from diffusers_erasure.errors import EvaluationError
from diffusers_erasure.evaluation.intervals import Z_95, cohen_kappa, mcnemar_exact, wilson_interval
from diffusers_erasure.evaluation.proportion import Proportion

counts = st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


def wilson_by_its_definition(k: int, n: int) -> tuple[float, float]:
    """The two rates p at which |k/n - p| is exactly z standard errors of p: roots of a quadratic."""
    rate = k / n
    roots = np.roots([1 + Z_95**2 / n, -(2 * rate + Z_95**2 / n), rate**2])
    low, high = sorted(float(root.real) for root in roots)
    return max(0.0, low), min(1.0, high)


@given(counts)
def test_wilson_solves_its_quadratic(pair: tuple[int, int]) -> None:
    assert wilson_interval(*pair) == pytest.approx(wilson_by_its_definition(*pair), abs=1e-7)


@given(counts)
def test_wilson_holds_the_rate_and_mirrors(pair: tuple[int, int]) -> None:
    k, n = pair
    low, high = wilson_interval(k, n)
    assert 0 <= low <= k / n <= high <= 1
    mirrored_low, mirrored_high = wilson_interval(n - k, n)
    assert (1 - mirrored_high, 1 - mirrored_low) == pytest.approx((low, high), abs=1e-12)


def test_wilson_of_the_published_table() -> None:
    """AdvUnlearn's 21.13 % for nudity is 30 of 142."""
    low, high = wilson_interval(30, 142)
    assert (round(100 * low, 1), round(100 * high, 1)) == (15.2, 28.6)


def test_wilson_at_the_ends() -> None:
    assert wilson_interval(0, 100)[0] == 0.0
    assert wilson_interval(0, 100)[1] == pytest.approx(0.0370, abs=1e-4)
    assert wilson_interval(100, 100)[1] == 1.0


def test_wilson_covers_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    rates = generator.uniform(0.02, 0.98, 2000)
    hits = [
        low <= rate <= high
        for rate in rates
        for low, high in [wilson_interval(int(generator.binomial(100, rate)), 100)]
    ]
    assert 0.93 <= np.mean(hits) <= 0.97


@pytest.mark.parametrize(("k", "n"), [(0, 0), (-1, 3), (4, 3), (1, -1)])
def test_no_interval_of_an_impossible_count(k: int, n: int) -> None:
    with pytest.raises(EvaluationError, match="is no proportion"):
        wilson_interval(k, n)


@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_is_a_doubled_binomial_tail(first: int, second: int) -> None:
    n = first + second
    tail = sum(comb(n, i) * 0.5**i * 0.5 ** (n - i) for i in range(min(first, second) + 1))
    assert mcnemar_exact(first, second) == pytest.approx(min(1.0, 2 * tail))
    assert mcnemar_exact(first, second) == mcnemar_exact(second, first)


def test_mcnemar_by_hand() -> None:
    assert mcnemar_exact(0, 0) == 1.0
    assert mcnemar_exact(0, 5) == pytest.approx(2 / 32)
    assert mcnemar_exact(500, 600) < 0.01


def test_kappa_by_hand() -> None:
    """20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no: observed 0.7, by chance 0.5."""
    first = [True] * 25 + [False] * 25
    second = [True] * 20 + [False] * 5 + [True] * 10 + [False] * 15
    assert cohen_kappa(first, second) == pytest.approx(0.4)
    assert cohen_kappa([True, True], [True, True]) == 1.0


def test_kappa_needs_the_same_pictures() -> None:
    with pytest.raises(EvaluationError, match="both raters must rate the same pictures"):
        cohen_kappa([True], [True, False])


def test_a_proportion_prints_counts_and_interval() -> None:
    assert str(Proportion.of(30, 142)) == "30/142 = 21.1 % (15.2-28.6)"


def test_a_proportion_refuses_an_interval_that_is_not_its_own() -> None:
    with pytest.raises(ValidationError, match="does not belong to 3/10"):
        Proportion(k=3, n=10, low=0.0, high=0.1)
    with pytest.raises(ValidationError, match="expected k <= n"):
        Proportion(k=3, n=2, low=0.0, high=0.1)
