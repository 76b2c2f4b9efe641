"""Gradients go to the attacked variable alone, cost about one forward pass, and leave no trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from torch.utils.flop_counter import FlopCounterMode

from diffusers_erasure.attacks.searching import gradient_to, searching
from diffusers_erasure.errors import ErasureError, NotFiniteError
from tests.conftest import copy_pipeline

Target = Callable[..., Any]


def _loss(target: Any, states: torch.Tensor) -> torch.Tensor:
    latents = torch.randn((2, 4, 8, 8), generator=torch.Generator().manual_seed(0))
    predicted: torch.Tensor = target.predictor(latents, torch.tensor(500), states)
    return predicted.square().flatten(1).mean(dim=1)


def _flops(run: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def test_backward_to_text_states_costs_at_most_about_one_forward(make_target: Target) -> None:
    target = make_target()
    states = target.encode(["a dog", "a cat"])
    with searching(target):
        with torch.no_grad():
            forward = _flops(lambda: _loss(target, states))
        variable = states.clone().requires_grad_(True)
        both = _flops(lambda: gradient_to(variable, _loss(target, variable), torch.float32))
    with_weights = _flops(lambda: _loss(target, states.clone().requires_grad_(True)).sum().backward())
    target.components.unet.zero_grad()
    assert 0.3 * forward < both - forward <= 1.1 * forward
    assert with_weights - forward > 1.6 * forward, "weight gradients are what is saved"


def test_no_weight_gets_a_gradient_and_flags_come_back(make_target: Target) -> None:
    target = make_target()
    parts = (target.components.unet, target.components.text_encoder)
    odd = next(parts[0].parameters()).requires_grad_(False)
    with searching(target):
        variable = target.encode(["a dog", "a cat"]).requires_grad_(True)
        gradient = gradient_to(variable, _loss(target, variable), torch.float32)
        assert not any(weight.requires_grad for part in parts for weight in part.parameters())
    assert gradient.abs().max() > 0
    assert all(weight.grad is None for part in parts for weight in part.parameters())
    assert all(weight.requires_grad is (weight is not odd) for part in parts for weight in part.parameters())


def test_plain_attention_stands_in_and_goes_even_after_an_error(make_target: Target) -> None:
    target = make_target()
    unet = target.components.unet
    own = AttnProcessor()
    name = next(iter(unet.attn_processors))
    unet.set_attn_processor({**unet.attn_processors, name: own})
    before = unet.attn_processors
    states = target.encode(["a dog", "a cat"])
    with torch.no_grad():
        fused = _loss(target, states)

    def fail() -> None:
        with searching(target):
            assert {type(processor) for processor in unet.attn_processors.values()} == {AttnProcessor}
            with torch.no_grad():
                torch.testing.assert_close(_loss(target, states), fused)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    after = unet.attn_processors
    assert all(after[key] is before[key] for key in before)
    assert AttnProcessor2_0 in {type(processor) for processor in after.values()}


@pytest.mark.parametrize(("side", "kind"), [(16, AttnProcessor), (64, AttnProcessor2_0)])
def test_large_latents_keep_fused_attention(
    make_target: Target, tiny_pipe: Any, side: int, kind: type
) -> None:
    pipe = copy_pipeline(tiny_pipe)
    pipe.unet.register_to_config(sample_size=side)
    target = make_target(pipe=pipe)
    with searching(target):
        assert {type(one) for one in pipe.unet.attn_processors.values()} == {kind}


def test_rows_do_not_touch_each_other(make_target: Target) -> None:
    target = make_target()
    states = target.encode(["a dog", "a cat"])
    other = states.clone()
    other[1] = 0.5 * other[1]
    gradients = []
    for rows in (states, other):
        variable = rows.clone().requires_grad_(True)
        with searching(target):
            gradients.append(gradient_to(variable, _loss(target, variable), torch.float32))
    torch.testing.assert_close(gradients[0][0], gradients[1][0])
    assert not torch.allclose(gradients[0][1], gradients[1][1])


def test_small_gradients_survive_in_half_precision() -> None:
    variable = torch.full((1, 1), 1.0, dtype=torch.float16, requires_grad=True)
    small = (variable * 1e-4).float().flatten() * 1e-4
    gradient = gradient_to(variable, small, torch.float16)
    assert gradient.item() == pytest.approx(1e-8, rel=0.02)


def test_a_loss_that_is_not_finite_is_an_error() -> None:
    variable = torch.ones(1, 1, requires_grad=True)
    with pytest.raises(NotFiniteError, match="1 of 1 losses"):
        gradient_to(variable, (variable * float("inf")).flatten(), torch.float32)
    assert issubclass(NotFiniteError, ErasureError)
    assert issubclass(NotFiniteError, FloatingPointError), "what older callers catch"
