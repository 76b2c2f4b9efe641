"""What is in a bank: the numbers of sampling one at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from torch import Tensor

from diffusers_erasure.diffusion import (
    DiffusionComponents,
    NoisePredictor,
    TextPath,
    TrajectoryBank,
    frozen,
    partial_sample,
)
from diffusers_erasure.errors import ConfigError
from tests.reference import ddim as reference
from tests.unit.diffusion.banks import LEVELS, PROMPTS, STEPS, generator, pool, settings, states


def test_fresh_draws_equal_literal_sampling_of_the_same_noise(components: DiffusionComponents) -> None:
    """Level 0: the whole draw is one batch, its numbers are those of one latent at a time."""
    bank = TrajectoryBank.build(components, PROMPTS, settings(mode="fresh"))
    draw = bank.draw(generator(), 4, prompts=[0, 1, 1, 0])
    again = generator()
    noise = torch.randn((4, 4, 8, 8), generator=again)
    indices = torch.randint(STEPS, (4, 1), generator=again).flatten().tolist()
    texts, empty = states(components)
    predict = reference.one_at_a_time(components.unet)
    assert draw.target_unconditional is not None
    for row, (index, prompt) in enumerate(zip(indices, [0, 1, 1, 0], strict=True)):
        latent, time = reference.aligned_sample(
            predict, noise[row], texts[prompt], empty[0], levels=LEVELS, steps=STEPS, index=index, scale=3.0
        )
        assert int(draw.timesteps[row]) == time
        for found, expected in (
            (draw.latents[row], latent),
            (draw.target_conditional[row], predict(latent, time, texts[prompt])),
            (draw.target_unconditional[row], predict(latent, time, empty[0])),
        ):
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert bank.evaluations == 2 * sum(STEPS - index for index in indices)


@pytest.mark.parametrize("mode", ["fresh", "per_trajectory", "pool"])
@pytest.mark.parametrize("alignment", ["aligned", "compvis"])
@pytest.mark.parametrize("guidance_scale", [3.0, 1.0])
def test_targets_are_the_frozen_models_predictions(
    components: DiffusionComponents, mode: str, alignment: str, guidance_scale: float
) -> None:
    chosen = settings(mode=mode, alignment=alignment, guidance_scale=guidance_scale)
    draw = TrajectoryBank.build(components, PROMPTS, chosen).draw(generator(), 7)
    texts, empty = states(components)
    with torch.no_grad():
        conditional, without = NoisePredictor.of(components).both(
            draw.latents, draw.timesteps, texts[draw.prompt_index], empty
        )
    assert draw.target_unconditional is not None
    torch.testing.assert_close(draw.target_conditional, conditional, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(draw.target_unconditional, without, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("alignment", ["aligned", "compvis"])
def test_every_latent_of_a_trajectory_is_that_of_partial_sampling(
    components: DiffusionComponents, alignment: Any
) -> None:
    """Level 1 keeps all steps of one run; sampling anew until each step gives the same latents."""
    bank = TrajectoryBank.build(components, PROMPTS, settings(alignment=alignment))
    draw = bank.draw(generator(), STEPS, prompts=[1] * STEPS)
    noise = torch.randn((1, 4, 8, 8), generator=generator())
    texts, empty = states(components)
    latents, times = partial_sample(
        NoisePredictor.of(components),
        texts[1:2],
        empty,
        noise=noise.expand(STEPS, -1, -1, -1),
        step_index=range(STEPS),
        steps=STEPS,
        alignment=alignment,
        generators=[generator(1)] * STEPS,
    )
    share = 1000 // STEPS
    order = (draw.timesteps // share).argsort()
    torch.testing.assert_close(draw.latents[order], latents, rtol=1e-3, atol=1e-4)
    assert torch.equal(draw.timesteps[order] // share, times // share)


def test_gradients_of_a_step_from_the_bank_equal_those_of_a_step_without_it(
    components: DiffusionComponents, make_tiny_pipe: Callable[..., StableDiffusionPipeline]
) -> None:
    """One AdvUnlearn-like step of a student encoder, once from a stored draw, once with all sampled anew."""
    draw = TrajectoryBank.build(components, PROMPTS, pool()).draw(generator(), 3)
    student = TextPath(components, encoder=make_tiny_pipe(seed=5).text_encoder)
    predictor = NoisePredictor.of(components)
    texts, empty = states(components)

    def gradients(target: Tensor) -> list[Tensor]:
        student.encoder.zero_grad(set_to_none=True)
        with frozen(components.unet):
            asked = student.encode([PROMPTS[int(number)] for number in draw.prompt_index])
            noise = predictor(draw.latents, draw.timesteps, asked)
            (noise - target).square().mean().backward()
        return [weight.grad for weight in student.encoder.parameters() if weight.grad is not None]

    assert draw.target_unconditional is not None
    cached = gradients(2 * draw.target_unconditional - draw.target_conditional)
    with torch.no_grad():
        conditional, without = predictor.both(draw.latents, draw.timesteps, texts[draw.prompt_index], empty)
    uncached = gradients(2 * without - conditional)
    assert len(cached) == len(uncached) > 10
    largest = max(float(gradient.abs().max()) for gradient in uncached)
    for one, other in zip(cached, uncached, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5 * largest)
    assert all(weight.grad is None for weight in components.unet.parameters())


def test_a_velocity_model_is_banked_as_it_speaks(components: DiffusionComponents) -> None:
    scheduler = DDIMScheduler.from_config(components.scheduler.config, prediction_type="v_prediction")
    draw = TrajectoryBank.build(replace(components, scheduler=scheduler), PROMPTS, pool()).draw(
        generator(), 4
    )
    texts, _ = states(components)
    predict = reference.one_at_a_time(components.unet)
    for row in range(4):
        time = int(draw.timesteps[row])
        expected = predict(draw.latents[row], time, texts[draw.prompt_index[row]])
        torch.testing.assert_close(draw.target_conditional[row], expected, rtol=1e-3, atol=1e-4)


def test_a_sampler_in_training_makes_the_latents_and_the_frozen_model_the_targets(
    components: DiffusionComponents, make_tiny_pipe: Callable[..., StableDiffusionPipeline]
) -> None:
    sampler = NoisePredictor.of(components, unet=make_tiny_pipe(seed=1).unet)
    sampler.unet.train()
    bank = TrajectoryBank.build(components, PROMPTS, settings(mode="fresh"), sampler=sampler)
    draw = bank.draw(generator(), 3, prompts=[0, 1, 0])
    again = generator()
    noise = torch.randn((3, 4, 8, 8), generator=again)
    indices = torch.randint(STEPS, (3, 1), generator=again).flatten().tolist()
    texts, empty = states(components)
    chosen = texts[torch.tensor([0, 1, 0])]
    latents, _ = partial_sample(sampler, chosen, empty, noise=noise, step_index=indices, steps=STEPS)
    torch.testing.assert_close(draw.latents, latents, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        expected = NoisePredictor.of(components)(latents, draw.timesteps, chosen)
    torch.testing.assert_close(draw.target_conditional, expected, rtol=1e-4, atol=1e-5)
    assert sampler.unet.training
    with pytest.raises(ConfigError, match="set mode='fresh'"):
        TrajectoryBank.build(components, PROMPTS, settings(), sampler=sampler)


def test_latents_of_another_size(components: DiffusionComponents) -> None:
    draw = TrajectoryBank.build(components, PROMPTS, settings(mode="fresh", height=4, width=16)).draw(
        generator(), 2
    )
    assert draw.latents.shape == (2, 4, 4, 16)


def test_the_unets_weights_never_get_gradients(components: DiffusionComponents) -> None:
    for mode in ("fresh", "per_trajectory", "pool"):
        draw = TrajectoryBank.build(components, PROMPTS, settings(mode=mode)).draw(generator(), 2)
        assert not draw.latents.requires_grad
        assert not draw.target_conditional.requires_grad
    assert all(weight.grad is None for weight in components.unet.parameters())
    assert all(weight.requires_grad for weight in components.unet.parameters())
