"""The closed form against the paper's literal formula, and the properties that make it trustworthy."""

from __future__ import annotations

import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from diffusers_erasure.errors import TrainingError
from diffusers_erasure.training.closed_form import (
    MappingStatistics,
    Penalties,
    PriorStatistics,
    RightFactor,
    drift,
    residual,
    solve,
    solve_low_rank,
)
from tests.reference.uce import edited_weight

WIDTH = 12


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def statistics(
    pairs: int = 5, retained: int = 30, seed: int = 0
) -> tuple[Tensor, Tensor, PriorStatistics, Tensor]:
    source, target = random(pairs, WIDTH, seed=seed), random(pairs, WIDTH, seed=seed + 1)
    states = random(retained, WIDTH, seed=seed + 2)
    return source, target, PriorStatistics.of(states), states


def close(first: Tensor, second: Tensor, tolerance: float = 1e-9) -> bool:
    return bool((first - second).abs().max() <= tolerance * max(1.0, float(second.abs().max())))


@pytest.mark.parametrize("out", [3, 12, 40])
@pytest.mark.parametrize("lamb", [0.0, 0.5])
def test_every_layer_equals_the_papers_formula(out: int, lamb: float) -> None:
    source, target, prior, states = statistics()
    penalties = Penalties(prior_weight=0.3, ridge=0.0, absolute_ridge=lamb, mean=False)
    factor = solve(MappingStatistics.of(source, target), prior, penalties).dense
    for layer in range(3):
        old = random(out, WIDTH, seed=100 + layer)
        expected = edited_weight(
            old, list(zip(source, target, strict=True)), list(states), preserve_scale=0.3, lamb=lamb
        )
        assert close(old + old @ factor, expected)


def test_means_are_sums_with_scaled_weights() -> None:
    source, target, prior, states = statistics(pairs=4, retained=25)
    factor = solve(MappingStatistics.of(source, target), prior, Penalties(0.7, ridge=0.0)).dense
    old = random(6, WIDTH, seed=9)
    expected = edited_weight(
        old,
        list(zip(source, target, strict=True)),
        list(states),
        erase_scale=1 / 4,
        preserve_scale=0.7 / 25,
    )
    assert close(old + old @ factor, expected)


@pytest.mark.parametrize("mean", [True, False])
@pytest.mark.parametrize("fixed", [0, 2])
def test_thin_matrices_equal_the_dense_solution(mean: bool, fixed: int) -> None:
    source, target, prior, _ = statistics(pairs=5)
    target[:fixed] = source[:fixed]
    weight = torch.tensor([1.0, 2.0, 1.0, 3.0, 0.5], dtype=torch.float64)
    penalties = Penalties(0.2, ridge=1e-3, mean=mean)
    thin = solve_low_rank(source, target, weight, prior, penalties)
    dense = solve(MappingStatistics.of(source, target, weight), prior, penalties)
    assert close(thin.dense, dense.dense)
    assert thin.rank == 5 - fixed
    assert thin.right is not None
    assert close(thin.right @ thin.right.T, torch.eye(thin.rank, dtype=torch.float64))


def test_a_concept_that_is_its_own_anchor_changes_nothing() -> None:
    source, _, prior, _ = statistics()
    factor = solve(MappingStatistics.of(source, source.clone()), prior, Penalties())
    assert bool((factor.dense == 0).all())
    assert residual(factor, MappingStatistics.of(source, source)) == 0.0


def test_without_a_prior_the_mapping_is_exact() -> None:
    source, target, prior, _ = statistics()
    errors = []
    for weight in (1.0, 1e-2, 1e-4, 1e-6):
        factor = solve(MappingStatistics.of(source, target), prior, Penalties(weight, ridge=1e-13)).dense
        errors.append(float((source + source @ factor.T - target).abs().max()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-4


def test_a_heavy_prior_moves_nothing() -> None:
    source, target, prior, _ = statistics()
    drifts = [
        drift(solve(MappingStatistics.of(source, target), prior, Penalties(weight)), prior)
        for weight in (0.01, 1.0, 100.0)
    ]
    assert drifts == sorted(drifts, reverse=True)
    assert drifts[-1] < 0.05


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), pairs=st.integers(1, 20), repeat=st.integers(2, 4))
def test_duplicates_are_weights(seed: int, pairs: int, repeat: int) -> None:
    source, target, prior, _ = statistics(pairs, seed=seed)
    twice = MappingStatistics.of(source.repeat(repeat, 1), target.repeat(repeat, 1))
    weighted = MappingStatistics.of(source, target, torch.full((pairs,), float(repeat), dtype=torch.float64))
    assert close(solve(twice, prior, Penalties()).dense, solve(weighted, prior, Penalties()).dense)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), pairs=st.integers(2, 20), data=st.data())
def test_order_and_batches_do_not_matter(seed: int, pairs: int, data: st.DataObject) -> None:
    source, target, prior, states = statistics(pairs, seed=seed)
    order = torch.tensor(data.draw(st.permutations(range(pairs))))
    cut = data.draw(st.integers(1, pairs - 1))
    whole = MappingStatistics.of(source, target)
    parts = MappingStatistics.of(source[order][:cut], target[order][:cut]) + MappingStatistics.of(
        source[order][cut:], target[order][cut:]
    )
    halves = PriorStatistics.of(states[:7]) + PriorStatistics.of(states[7:])
    assert close(solve(parts, halves, Penalties()).dense, solve(whole, prior, Penalties()).dense)
    assert parts.count == whole.count
    assert parts.energy == pytest.approx(whole.energy)


def test_nothing_is_the_neutral_element() -> None:
    source, target, prior, _ = statistics()
    mapping = MappingStatistics.of(source, target)
    padded = MappingStatistics.empty(WIDTH) + mapping
    assert torch.equal(padded.shift, mapping.shift)
    assert torch.equal((PriorStatistics.empty(WIDTH) + prior).gram, prior.gram)


def test_float32_states_are_accumulated_in_float64() -> None:
    """Sums of squares that need more digits than float32 has."""
    source, target, _, _ = statistics()
    mapping = MappingStatistics.of(source.float(), target.float())
    exact = source.float().double()
    torch.testing.assert_close(mapping.gram, exact.T @ exact, rtol=1e-13, atol=1e-12)
    assert not torch.allclose((source.float().T @ source.float()).double(), mapping.gram, rtol=1e-13, atol=0)


def test_a_singular_gram_is_refused_without_a_ridge_and_solved_with_one() -> None:
    source, target = random(3, WIDTH), random(3, WIDTH, seed=1)
    source = source - source.mean(1, keepdim=True)  # as a fresh LayerNorm leaves it: orthogonal to all ones
    mapping, prior = MappingStatistics.of(source, target), PriorStatistics.empty(WIDTH)
    with pytest.raises(TrainingError, match=r"positive definite.*raise ridge"):
        solve(mapping, prior, Penalties(ridge=0.0))
    factor = solve(mapping, prior, Penalties(ridge=1e-9))
    assert residual(factor, mapping) < 1e-6


def test_a_pivot_that_only_rounding_keeps_above_zero_is_refused() -> None:
    """LAPACK calls [[1, 1], [1, 1 + 2**-52]] positive definite; no digit of what it solves is good."""
    source = torch.tensor([[1.0, 1.0], [0.0, 2.0**-26]], dtype=torch.float64)
    mapping = MappingStatistics.of(source, random(2, 2))
    assert int(torch.linalg.cholesky_ex(mapping.gram).info) == 0
    with pytest.raises(TrainingError, match="positive definite"):
        solve(mapping, PriorStatistics.empty(2), Penalties(ridge=0.0, mean=False))


def test_nothing_to_map_is_an_error() -> None:
    with pytest.raises(TrainingError, match="at least one pair"):
        solve(MappingStatistics.empty(WIDTH), PriorStatistics.empty(WIDTH), Penalties())


def test_condition_is_estimated_and_a_hopeless_one_is_said(caplog: pytest.LogCaptureFixture) -> None:
    source, target, prior, _ = statistics(pairs=40)
    mapping = MappingStatistics.of(source, target)
    normal = mapping.gram / 40 + prior.gram / 30
    exact = float(torch.linalg.cond(normal))
    found = solve(mapping, prior, Penalties(1.0, ridge=0.0)).condition
    assert 0.5 * exact < found < 1.01 * exact
    with caplog.at_level(logging.WARNING):
        solve(
            MappingStatistics.of(source[:3], target[:3]), PriorStatistics.empty(WIDTH), Penalties(ridge=1e-13)
        )
    assert "condition number" in caplog.text


def test_residual_and_drift_are_what_their_names_say() -> None:
    source, target, prior, states = statistics()
    mapping = MappingStatistics.of(source, target)
    factor: RightFactor = solve(mapping, prior, Penalties(0.5))
    wanted, moved = target - source, source @ factor.dense.T
    assert residual(factor, mapping) == pytest.approx(float((moved - wanted).norm() / wanted.norm()))
    assert drift(factor, prior) == pytest.approx(float((states @ factor.dense.T).norm() / states.norm()))
    assert drift(factor, PriorStatistics.empty(WIDTH)) == 0.0
