"""Our Adam is torch's, row by row."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from diffusers_erasure.attacks.adam import AdamState, adam_step


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("rule", [torch.optim.Adam, torch.optim.AdamW])
def test_steps_equal_those_of_torch(rule: Callable[..., torch.optim.Optimizer], decay: float) -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn((3, 2, 4), generator=generator)
    gradients = torch.randn((5, 3, 2, 4), generator=generator)
    theirs = start.clone().requires_grad_(True)
    optimizer = rule([theirs], lr=0.01, weight_decay=decay)
    ours, state = start.clone(), AdamState.of(start)
    for gradient in gradients:
        theirs.grad = gradient.clone()
        optimizer.step()
        ours = adam_step(
            ours,
            gradient,
            state,
            learning_rate=0.01,
            weight_decay=decay,
            decoupled=rule is torch.optim.AdamW,
        )
    torch.testing.assert_close(ours, theirs.detach())


def test_rows_that_begin_later_are_as_if_they_were_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn((2, 4), generator=generator)
    gradients = torch.randn((3, 2, 4), generator=generator)
    first, state = start[:1], AdamState.of(start[:1])
    first = adam_step(first, gradients[0, :1], state, learning_rate=0.1)
    both, state = torch.cat([first, start[1:]]), state.joined(AdamState.of(start[1:]))
    for gradient in gradients[1:]:
        both = adam_step(both, gradient, state, learning_rate=0.1)
    alone, state = start[1:], AdamState.of(start[1:])
    for gradient in gradients[1:, 1:]:
        alone = adam_step(alone, gradient, state, learning_rate=0.1)
    torch.testing.assert_close(both[1:], alone, rtol=0, atol=0)
    assert state.rows(torch.tensor([True])).steps.tolist() == [2]
