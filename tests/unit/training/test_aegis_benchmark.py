"""The literal loop of the benchmark and ours are one algorithm, and the counts of copies are right."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers import StableDiffusionPipeline

from benchmarks.aegis import Literal, Ours, configured, difference
from benchmarks.aegis_memory import count
from diffusers_erasure.diffusion import DiffusionComponents
from diffusers_erasure.training.draws import StepDraws


def test_the_literal_loop_gives_the_same_weights(tiny_pipe: StableDiffusionPipeline) -> None:
    """Some iterations on the same draws, with a copy of the last projection in both."""
    config = configured(num_inference_steps=4, learning_rate=1e-4, memory="full", attack_learning_rate=0.01)
    first, second, third = (copy.deepcopy(tiny_pipe) for _ in range(3))
    literal, ours = Literal(first, second, config, "dog"), Ours(third, config, "dog")
    for step in range(5):
        losses = [one.iteration(StepDraws.at(0, step, batch=1)) for one in (literal, ours)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert literal.target is not None
    assert ours.task.pair.target_delta is not None
    torch.testing.assert_close(literal.target, ours.task.pair.target_delta, atol=1e-5, rtol=0)
    assert difference(literal, ours) < 5e-3
    assert ours.task.step.rectifier.omegas != {}
    assert max(ours.task.step.rectifier.omegas.values()) > 0
    assert literal.forwards == ours.task.evaluations


def test_the_copies_of_a_small_unet_are_counted(tiny_pipe: StableDiffusionPipeline) -> None:
    components = DiffusionComponents.from_pipeline(tiny_pipe)
    weights = sum(one.numel() * one.element_size() for one in components.unet.parameters())
    largest = max(one.numel() * one.element_size() for one in components.unet.parameters())
    sign, full = (count(components, "full", memory=memory) for memory in ("sign", "full"))
    assert sign["copy in training"] == sign["gradients"] == weights
    assert 0 <= sign["Adam's moments"] - 2 * weights < 0.01 * weights
    assert (sign["last projection"], full["last projection"]) == (0, weights)
    for rows in (sign, full):
        assert largest <= rows["most besides, in a step"] < 3 * largest + 0.01 * weights
