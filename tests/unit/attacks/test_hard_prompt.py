"""Hard prompts: projection to the vocabulary, and gradients that pass through it."""

from __future__ import annotations

import pytest
import torch

from diffusers_erasure.attacks.hard_prompt import nearest_tokens, project
from diffusers_erasure.errors import ConfigError
from tests.reference.pez import nearest_by_cosine, pez_step


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_the_nearest_tokens_are_those_of_a_loop_over_the_vocabulary() -> None:
    matrix, given = numbers(11, 5), numbers(2, 3, 5, seed=1)
    allowed = torch.tensor([1, 2, 4, 7, 10])
    found = nearest_tokens(given, matrix, allowed)
    expected = [
        [nearest_by_cosine(row.tolist(), matrix.tolist(), allowed.tolist()) for row in one] for one in given
    ]
    assert found.tolist() == expected


def test_a_token_is_nearest_to_itself_at_any_length() -> None:
    matrix = numbers(11, 5)
    assert nearest_tokens(0.01 * matrix[None, [3, 8]], matrix, torch.arange(11)).tolist() == [[3, 8]]


def test_no_allowed_token_is_an_error() -> None:
    with pytest.raises(ConfigError, match="0 tokens are allowed"):
        nearest_tokens(numbers(1, 1, 5), numbers(11, 5), torch.tensor([], dtype=torch.long))


def test_the_projection_is_shown_and_the_iterate_gets_its_gradient() -> None:
    matrix, iterate = numbers(11, 5), numbers(1, 2, 5, seed=1).requires_grad_()
    ids = nearest_tokens(iterate, matrix, torch.arange(11))
    shown = project(iterate, matrix, ids)
    torch.testing.assert_close(shown.detach(), matrix[ids])
    wanted = numbers(1, 2, 5, seed=2)
    (shown - wanted).square().sum().backward()
    torch.testing.assert_close(iterate.grad, 2 * (matrix[ids] - wanted))


def test_steps_are_those_of_the_paper() -> None:
    matrix, wanted = numbers(11, 5), numbers(2, 5, seed=2)
    ours = numbers(1, 2, 5, seed=1).requires_grad_()
    theirs = ours.detach()[0].tolist()
    for _ in range(5):
        ids = nearest_tokens(ours, matrix, torch.arange(11))
        loss = (project(ours, matrix, ids)[0] - wanted).square().sum()
        (gradient,) = torch.autograd.grad(loss, ours)
        with torch.no_grad():
            ours -= 0.3 * gradient
        theirs = pez_step(theirs, matrix.tolist(), wanted.tolist(), rate=0.3)
    torch.testing.assert_close(ours.detach()[0], torch.tensor(theirs))
