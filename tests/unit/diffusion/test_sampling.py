"""Partial sampling against loops that take one latent and one step at a time."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from diffusers_erasure.diffusion import (
    DiffusionComponents,
    NoisePredictor,
    SamplingPath,
    TextPath,
    partial_sample,
)
from diffusers_erasure.diffusion.schedule import told_timesteps
from diffusers_erasure.errors import ConfigError
from tests.reference import ddim as reference

STEPS = 6
LEVELS = reference.alphas_cumprod(0.00085, 0.012, 1000)


@pytest.fixture
def texts(components: DiffusionComponents) -> tuple[Tensor, Tensor]:
    """States of three prompts, and of the empty one."""
    path = TextPath(components)
    with torch.no_grad():
        return path.encode(["dog", "a cat", "ink"]), path.encode("")


@pytest.fixture
def noise() -> Tensor:
    return torch.randn((3, 4, 8, 8), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("indices", [(0, 2, 5), (5, 5, 5), (3, 0, 4)])
def test_aligned_rows_equal_literal_sampling(
    components: DiffusionComponents, texts: tuple[Tensor, Tensor], noise: Tensor, indices: Sequence[int]
) -> None:
    states, empty = texts
    predictor = NoisePredictor.of(components)
    latents, times = partial_sample(predictor, states, empty, noise=noise, step_index=indices, steps=STEPS)
    predict = reference.one_at_a_time(components.unet)
    for row, index in enumerate(indices):
        expected, time = reference.aligned_sample(
            predict, noise[row], states[row], empty[0], levels=LEVELS, steps=STEPS, index=index, scale=3.0
        )
        torch.testing.assert_close(latents[row], expected, rtol=1e-3, atol=1e-4)
        assert int(times[row]) == time
    assert predictor.evaluations == 2 * sum(STEPS - 1 - index for index in indices)


@pytest.mark.parametrize("index", range(STEPS))
def test_compvis_equals_the_authors_loop(
    components: DiffusionComponents, texts: tuple[Tensor, Tensor], noise: Tensor, index: int
) -> None:
    states, empty = texts
    predictor = NoisePredictor.of(components)
    latents, times = partial_sample(
        predictor,
        states[:1],
        empty,
        noise=noise[:1],
        step_index=index,
        steps=STEPS,
        alignment="compvis",
        generators=[torch.Generator().manual_seed(0)],
    )
    predict = reference.one_at_a_time(components.unet)
    expected = reference.compvis_sample(
        predict, noise[0], states[0], empty[0], levels=LEVELS, steps=STEPS, till=index, scale=3.0
    )
    torch.testing.assert_close(latents[0], expected, rtol=1e-3, atol=1e-4)
    assert round(index * 1000 / STEPS) <= int(times[0]) < round((index + 1) * 1000 / STEPS)


def test_aligned_latents_stand_at_the_timestep_that_is_told() -> None:
    """The level that a latent was stepped to is the level that the UNet is asked at."""
    path = SamplingPath(50)
    for index in range(50):
        done = path.moves[: path.moves_until(index)]
        assert path.timesteps([index]).tolist() == [done[-1][1] if done else path.grid[-1]]


def test_compvis_latents_are_cleaner_than_the_timestep_that_is_told() -> None:
    """39 to 58 timesteps for 50 steps (`alignment`); indices 0 and 1 share the cleanest latent."""
    path = SamplingPath(50, alignment="compvis")
    assert path.moves_until(0) == path.moves_until(1) == 49
    generator = torch.Generator().manual_seed(0)
    for index in range(2, 50):
        at = path.moves[path.moves_until(index) - 1][1]
        told = path.timesteps([index] * 40, generator)
        assert at == 20 * (index - 2) + 1
        assert 39 <= int((told - at).min()) <= int((told - at).max()) <= 58


def test_the_steps_that_a_draw_costs_are_those_of_the_authors() -> None:
    path = SamplingPath(50, alignment="compvis")
    assert sum(map(path.moves_until, range(50))) / 50 == pytest.approx(25.48)


def test_told_timesteps_fill_their_window_evenly() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = told_timesteps(torch.full((4000,), 7), 50, 1000, generator)
    counts = torch.bincount(drawn - 140, minlength=20)
    assert len(counts) == 20
    assert int(counts.min()) > 130


def test_a_guidance_of_one_costs_one_evaluation_a_step(
    components: DiffusionComponents, texts: tuple[Tensor, Tensor], noise: Tensor
) -> None:
    predictor = NoisePredictor.of(components)
    partial_sample(predictor, *texts, noise=noise, step_index=0, steps=STEPS, guidance_scale=1.0)
    assert predictor.evaluations == 3 * (STEPS - 1)


def test_the_last_index_is_the_noise_itself(
    components: DiffusionComponents, texts: tuple[Tensor, Tensor], noise: Tensor
) -> None:
    predictor = NoisePredictor.of(components)
    latents, times = partial_sample(predictor, *texts, noise=noise, step_index=STEPS - 1, steps=STEPS)
    assert torch.equal(latents, noise)
    assert latents is not noise
    assert set(times.tolist()) == {SamplingPath(STEPS).grid[-1]}
    assert predictor.evaluations == 0


@pytest.mark.parametrize(
    ("index", "message"), [(STEPS, "is not on a grid"), (-1, "is not on a grid"), ([0], "1 step indices")]
)
def test_indices_that_do_not_fit_are_refused(
    components: DiffusionComponents,
    texts: tuple[Tensor, Tensor],
    noise: Tensor,
    index: int | list[int],
    message: str,
) -> None:
    predictor = NoisePredictor.of(components)
    with pytest.raises(ConfigError, match=message):
        partial_sample(predictor, *texts, noise=noise, step_index=index, steps=STEPS)


def test_states_of_other_rows_are_refused(
    components: DiffusionComponents, texts: tuple[Tensor, Tensor], noise: Tensor
) -> None:
    states, empty = texts
    longer = states[:1].expand(len(noise) + 1, -1, -1)
    with pytest.raises(ConfigError, match=f"for {len(noise)} latents"):
        partial_sample(NoisePredictor.of(components), longer, empty, noise=noise, step_index=0, steps=STEPS)


@pytest.mark.parametrize("guidance_scale", [3.0, 1.0])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_sampling_to_the_end_is_what_the_pipeline_does(
    tiny_pipe: StableDiffusionPipeline,
    texts: tuple[Tensor, Tensor],
    noise: Tensor,
    guidance_scale: float,
    kind: str,
) -> None:
    """The cleanest index and the one step that remains, against the stock pipeline's own latents."""
    tiny_pipe.scheduler.register_to_config(prediction_type=kind)
    predictor = NoisePredictor.of(DiffusionComponents.from_pipeline(tiny_pipe))
    states, empty = texts
    latents, times = partial_sample(
        predictor, states, empty, noise=noise, step_index=0, steps=STEPS, guidance_scale=guidance_scale
    )
    with torch.no_grad():
        last = predictor.guided(latents, times, states, empty, guidance_scale)
    found = predictor.moved(latents, last, int(times[0]), -1)
    expected = tiny_pipe(
        ["dog", "a cat", "ink"],
        latents=noise.clone(),
        num_inference_steps=STEPS,
        guidance_scale=guidance_scale,
        output_type="latent",
    ).images
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
