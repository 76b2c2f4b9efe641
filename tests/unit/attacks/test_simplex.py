"""Points of the simplex: projection, drawing, and gradients through a choice."""

from __future__ import annotations

import pytest
import torch

from diffusers_erasure.attacks.simplex import choose, project_to_simplex, straight_through, uniform
from diffusers_erasure.errors import ConfigError, NotFiniteError
from tests.reference.simplex import project_by_bisection, project_by_sorting


@pytest.mark.parametrize("scale", [0.001, 0.1, 1.0, 100.0])
@pytest.mark.parametrize("width", [1, 2, 7, 300])
def test_projection_is_the_nearest_point(scale: float, width: int) -> None:
    generator = torch.Generator().manual_seed(width)
    points = scale * torch.randn((5, width), generator=generator, dtype=torch.float64)
    projected = project_to_simplex(points)
    for row, point in zip(projected.tolist(), points.tolist(), strict=True):
        assert row == pytest.approx(project_by_sorting(point), abs=1e-9)
        assert row == pytest.approx(project_by_bisection(point), abs=1e-9)


def test_projected_rows_are_distributions_even_of_huge_float32_points() -> None:
    generator = torch.Generator().manual_seed(0)
    points = 1e9 * torch.randn((4, 2, 500), generator=generator)
    projected = project_to_simplex(points)
    assert projected.min() >= 0
    torch.testing.assert_close(projected.sum(-1), torch.ones(4, 2))


def test_projection_leaves_a_distribution_alone() -> None:
    point = torch.tensor([[0.2, 0.0, 0.8]])
    torch.testing.assert_close(project_to_simplex(point), point)


def test_forbidden_tokens_stay_at_zero() -> None:
    allowed = torch.tensor([True, False, True])
    projected = project_to_simplex(torch.tensor([[0.1, 9.0, 0.4]]), allowed)
    assert projected[0, 1] == 0
    assert projected[0, [0, 2]].tolist() == pytest.approx(project_by_sorting([0.1, 0.4]))


def test_nothing_allowed_is_an_error() -> None:
    with pytest.raises(ConfigError, match="0 tokens are allowed"):
        project_to_simplex(torch.zeros(1, 3), torch.zeros(3, dtype=torch.bool))


def test_points_that_are_not_finite_are_refused() -> None:
    with pytest.raises(NotFiniteError, match="not finite"):
        project_to_simplex(torch.tensor([[0.0, float("nan")]]))


def test_uniform_spreads_over_allowed_tokens() -> None:
    points = uniform((2, 3), torch.tensor([True, False, True, True]))
    assert points.shape == (2, 3, 4)
    torch.testing.assert_close(points[1, 2], torch.tensor([1 / 3, 0, 1 / 3, 1 / 3]))


def test_choices_follow_the_distribution_and_never_take_what_is_impossible() -> None:
    distribution = torch.tensor([0.0, 0.25, 0.0, 0.75, 0.0])
    draws = torch.arange(1000) / 1000
    chosen = choose(distribution.expand(1000, -1), draws)
    assert torch.bincount(chosen, minlength=5).tolist() == [0, 250, 0, 750, 0]


def test_a_sum_that_rounding_leaves_below_one_draws_no_token_that_is_not_there() -> None:
    distribution = torch.tensor([0.5, 0.4999999])
    assert int(choose(distribution, torch.tensor(0.99999994))) == 1


def test_gradient_is_that_of_the_one_hot_product_cut_to_one() -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn((6, 3), generator=generator)
    one_hot = torch.eye(6)[[2, 5]].requires_grad_(True)
    weights = torch.randn((2, 3), generator=generator)
    embedded = one_hot @ matrix
    embedded.retain_grad()
    (embedded * weights).sum().backward()
    assert embedded.grad is not None
    assert one_hot.grad is not None
    assert one_hot.grad.abs().max() > 1, "the cut must matter in this test"
    torch.testing.assert_close(straight_through(embedded.grad, matrix), one_hot.grad.clamp(-1, 1))
