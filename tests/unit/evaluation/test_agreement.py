"""Two judges, paired rates, and the bootstrap over prompts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from diffusers_erasure.errors import EvaluationError
from diffusers_erasure.evaluation.agreement import Agreement, kappa_standard_error
from diffusers_erasure.evaluation.bootstrap import bootstrap, resampled_rows
from diffusers_erasure.evaluation.intervals import cohen_kappa, mcnemar_exact, paired_difference
from tests.reference import statistics as reference

table = st.tuples(*[st.integers(0, 60)] * 4).filter(any)


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=40))
def test_kappa_follows_its_definition(pairs: list[tuple[bool, bool]]) -> None:
    first, second = zip(*pairs, strict=True)
    assume(len({*first, *second}) == 2)
    assert cohen_kappa(first, second) == pytest.approx(float(reference.kappa(first, second)))


@settings(deadline=None)
@given(st.integers(0, 20), st.integers(0, 20))
def test_mcnemar_counts_coins(first: int, second: int) -> None:
    assert mcnemar_exact(first, second) == pytest.approx(float(reference.mcnemar(first, second)))


def test_agreement_by_hand() -> None:
    first = [True] * 25 + [False] * 25
    second = [True] * 20 + [False] * 5 + [True] * 10 + [False] * 15
    found = Agreement.of("a", "b", first, second)
    assert (found.both, found.first_only, found.second_only, found.neither) == (20, 5, 10, 15)
    assert (found.kappa, found.observed) == (pytest.approx(0.4), 0.7)
    assert found.mcnemar_p == pytest.approx(mcnemar_exact(5, 10))
    assert str(found).startswith("agree on 35/50, kappa 0.40 (")
    assert Agreement.model_validate_json(found.model_dump_json()) == found
    with pytest.raises(ValidationError, match="no pictures were compared"):
        Agreement(**{**found.model_dump(), "both": 0, "first_only": 0, "second_only": 0, "neither": 0})
    with pytest.raises(EvaluationError, match="both raters must rate the same pictures"):
        Agreement.of("a", "b", first, second[:-1])


def test_judges_that_always_agree_have_no_width() -> None:
    found = Agreement.of("a", "b", [True] * 30 + [False] * 20, [True] * 30 + [False] * 20)
    assert (found.kappa, found.low, found.high) == (1.0, 1.0, 1.0)
    assert kappa_standard_error(10, 0, 0, 0) == 0.0


def test_the_interval_of_kappa_covers_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    cells = np.array([0.4, 0.1, 0.08, 0.42])
    observed = cells[0] + cells[3]
    chance = (cells[0] + cells[1]) * (cells[0] + cells[2]) + (cells[3] + cells[2]) * (cells[3] + cells[1])
    true = (observed - chance) / (1 - chance)
    hits = []
    for both, first, second, neither in generator.multinomial(200, cells, 2000).tolist():
        answers = [True] * (both + first) + [False] * (second + neither)
        others = [True] * both + [False] * first + [True] * second + [False] * neither
        found = Agreement.of("a", "b", answers, others)
        hits.append(found.low <= true <= found.high)
    assert 0.93 <= np.mean(hits) <= 0.97


@settings(deadline=None)
@given(table)
def test_the_paired_interval_follows_the_paper(cells: tuple[int, int, int, int]) -> None:
    both, first, second, neither = cells
    low, high = reference.newcombe_paired(both, second, first, neither)
    assert paired_difference(*cells) == pytest.approx((max(-1, low), min(1, high)), abs=1e-9)
    mirrored = paired_difference(both, second, first, neither)
    assert (-mirrored[1], -mirrored[0]) == pytest.approx(paired_difference(*cells), abs=1e-9)


def test_the_paired_interval_of_newcombe() -> None:
    """His table II, row e=36, f=12, g=2, h=0: 0.20, from 0.0569 to 0.3404."""
    assert paired_difference(36, 2, 12, 0) == pytest.approx((0.0569, 0.3404), abs=5e-5)


def test_the_paired_interval_covers_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    hits = []
    for _ in range(2000):
        cells = generator.dirichlet([4, 1, 1, 2])
        counted = generator.multinomial(100, cells).tolist()
        low, high = paired_difference(*counted)
        hits.append(low <= cells[2] - cells[1] <= high)
    assert 0.93 <= np.mean(hits) <= 0.975


def test_no_interval_without_pairs() -> None:
    with pytest.raises(EvaluationError, match="is no proportion"):
        paired_difference(0, 0, 0, 0)
    with pytest.raises(EvaluationError, match="is no proportion"):
        paired_difference(5, -1, 0, 0)


def generator_of(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_prompt_brings_all_of_its_pictures() -> None:
    prompts = ["a", "b", "a", "c", "c", "c"]
    for rows in resampled_rows(prompts, generator=generator_of(0), resamples=50):
        drawn = [prompts[row] for row in rows.tolist()]
        assert drawn.count("a") % 2 == 0
        assert drawn.count("c") % 3 == 0
        assert drawn.count("a") // 2 + drawn.count("b") + drawn.count("c") // 3 == 3


def test_the_bootstrap_is_seeded_and_leaves_other_randomness_alone() -> None:
    values, prompts = torch.arange(20.0), [str(i // 2) for i in range(20)]
    state = torch.get_rng_state()
    first = bootstrap(values, prompts, generator=generator_of(3))
    again = bootstrap(values, prompts, generator=generator_of(3))
    other = bootstrap(values, prompts, generator=generator_of(4))
    assert first == again != other
    assert torch.equal(state, torch.get_rng_state())
    assert (first.value, first.prompts, first.pictures) == (9.5, 10, 20)
    assert first.low < 9.5 < first.high
    half = bootstrap(values, prompts, generator=generator_of(3), level=0.5)
    assert half.high - half.low < first.high - first.low
    largest = bootstrap(values, prompts, generator=generator_of(3), statistic=lambda v: float(v.max()))
    assert (largest.value, largest.high) == (19.0, 19.0)


def test_the_bootstrap_covers_as_often_as_it_says_and_knows_that_pictures_resemble_each_other() -> None:
    generator = torch.Generator().manual_seed(0)
    prompts = [prompt for prompt in range(40) for _ in range(5)]
    hits, naive = [], []
    for _ in range(200):
        shared = torch.randn(40, generator=generator).repeat_interleave(5)
        values = shared + torch.randn(200, generator=generator)
        found = bootstrap(values, prompts, generator=generator, resamples=100)
        alone = bootstrap(values, list(range(200)), generator=generator, resamples=100)
        hits.append(found.low <= 0 <= found.high)
        naive.append(alone.low <= 0 <= alone.high)
    assert 0.88 <= np.mean(hits) <= 0.99
    assert np.mean(naive) < 0.8, "pictures taken one by one look far too certain"


@pytest.mark.parametrize(("count", "level"), [(3, 0.95), (4, 0.0), (4, 1.0)])
def test_what_the_bootstrap_refuses(count: int, level: float) -> None:
    with pytest.raises(EvaluationError, match="cannot be resampled"):
        bootstrap(torch.zeros(4), ["a"] * count, generator=generator_of(0), level=level)
    with pytest.raises(EvaluationError, match="cannot be resampled"):
        bootstrap(torch.zeros(0), [], generator=generator_of(0))
