"""Noise predictions against closed forms and against one evaluation at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from diffusers_erasure.diffusion import (
    DiffusionComponents,
    NoisePredictor,
    TextPath,
    add_noise,
    ddim_grid,
    ddim_step,
    frozen,
    noise_from_output,
    training_scheduler,
)
from diffusers_erasure.errors import ConfigError
from tests.reference import ddim as reference

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@pytest.fixture
def inputs(components: DiffusionComponents) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Three latents, their timesteps, states of three prompts and of the empty one."""
    text = TextPath(components)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        states, empty = text.encode(["dog", "a cat", "ink"]), text.encode("")
    return (
        torch.randn((3, 4, 8, 8), generator=generator),
        torch.tensor([1, 500, 999]),
        states,
        empty,
    )


@pytest.mark.parametrize("scheduler", [DDIMScheduler, DDPMScheduler, PNDMScheduler, EulerDiscreteScheduler])
def test_the_schedule_is_the_pipelines_own(scheduler: type, components: DiffusionComponents) -> None:
    other = replace(components, scheduler=scheduler(**BETAS, num_train_timesteps=100))
    found = NoisePredictor.of(other).alphas_cumprod
    expected = torch.tensor(reference.alphas_cumprod(0.00085, 0.012, 100))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


def test_the_training_scheduler_is_ddim_of_the_methods() -> None:
    config = training_scheduler(PNDMScheduler(**BETAS, prediction_type="v_prediction")).config
    assert (config.clip_sample, config.set_alpha_to_one, config.thresholding) == (False, False, False)
    assert (config.steps_offset, config.timestep_spacing) == (1, "leading")
    assert config.prediction_type == "v_prediction"


def test_zero_snr_is_kept() -> None:
    scheduler = training_scheduler(DDIMScheduler(**BETAS, rescale_betas_zero_snr=True))
    assert float(scheduler.alphas_cumprod[-1]) == 0


def test_models_without_betas_are_refused() -> None:
    with pytest.raises(ConfigError, match="FlowMatchEulerDiscreteScheduler has no beta_start"):
        training_scheduler(FlowMatchEulerDiscreteScheduler())


def test_models_that_predict_the_sample_are_refused() -> None:
    with pytest.raises(ConfigError, match="prediction_type is 'sample'"):
        training_scheduler(DDIMScheduler(**BETAS, prediction_type="sample"))


@pytest.mark.parametrize(("steps", "grid"), [(50, (1, 21, 981)), (4, (1, 251, 751)), (1, (1, 1, 1))])
def test_the_grid_is_that_of_diffusers(steps: int, grid: tuple[int, int, int]) -> None:
    scheduler = training_scheduler(DDIMScheduler(**BETAS))
    scheduler.set_timesteps(steps)
    found = ddim_grid(steps, 1000)
    assert list(found) == scheduler.timesteps.tolist()[::-1]
    assert (found[0], found[min(1, steps - 1)], found[-1]) == grid


@pytest.mark.parametrize("steps", [0, -1, 1000, 1001])
def test_a_grid_that_does_not_fit_is_refused(steps: int) -> None:
    with pytest.raises(ConfigError, match="do not fit into 1000 timesteps"):
        ddim_grid(steps, 1000)


@pytest.mark.parametrize(("timestep", "previous"), [(981, 961), (21, 1), (1, -19)])
def test_a_ddim_step_is_the_closed_formula_and_that_of_diffusers(timestep: int, previous: int) -> None:
    scheduler = training_scheduler(DDIMScheduler(**BETAS))
    scheduler.set_timesteps(50)
    generator = torch.Generator().manual_seed(1)
    latents, noise = torch.randn((2, 2, 4, 8, 8), generator=generator)
    found = ddim_step(latents, noise, timestep, previous, scheduler.alphas_cumprod)
    levels = reference.alphas_cumprod(0.00085, 0.012, 1000)
    literal = reference.step(latents, noise, levels[timestep], levels[max(previous, 0)])
    torch.testing.assert_close(found, literal, rtol=1e-4, atol=1e-5)
    theirs = scheduler.step(noise, timestep, latents).prev_sample
    torch.testing.assert_close(found, theirs, rtol=1e-6, atol=2e-6)


def test_noise_is_added_as_diffusers_adds_it() -> None:
    scheduler = DDIMScheduler(**BETAS)
    generator = torch.Generator().manual_seed(1)
    latents, noise = torch.randn((2, 3, 4, 8, 8), generator=generator)
    times = torch.tensor([0, 400, 999])
    found = add_noise(latents, noise, times, scheduler.alphas_cumprod)
    torch.testing.assert_close(found, scheduler.add_noise(latents, noise, times), rtol=0, atol=1e-6)


def test_velocity_gives_back_the_noise_that_was_added() -> None:
    levels = DDIMScheduler(**BETAS).alphas_cumprod
    generator = torch.Generator().manual_seed(2)
    clean, noise = torch.randn((2, 3, 4, 8, 8), generator=generator)
    times = torch.tensor([1, 500, 999])
    noisy = add_noise(clean, noise, times, levels)
    level = levels[times].view(-1, 1, 1, 1)
    velocity = level.sqrt() * noise - (1 - level).sqrt() * clean
    found = noise_from_output(velocity, noisy, times, levels, "v_prediction")
    torch.testing.assert_close(found, noise, rtol=1e-5, atol=1e-5)
    for row in range(3):
        literal = reference.noise_of_velocity(velocity[row], noisy[row], float(levels[times[row]]))
        torch.testing.assert_close(found[row], literal, rtol=1e-5, atol=1e-5)


def test_predictions_equal_the_unets_own(
    components: DiffusionComponents, inputs: tuple[Tensor, Tensor, Tensor, Tensor]
) -> None:
    latents, times, states, _ = inputs
    predictor = NoisePredictor.of(components)
    with torch.no_grad():
        expected = components.unet(latents, times, encoder_hidden_states=states).sample
        assert torch.equal(predictor(latents, times, states), expected)
        one_for_all = predictor(latents, torch.tensor(500), states[0])
        repeated = components.unet(latents, 500, encoder_hidden_states=states[:1].expand(3, -1, -1)).sample
    torch.testing.assert_close(one_for_all, repeated, rtol=0, atol=1e-6)


def test_guidance_batches_both_halves_and_equals_two_evaluations(
    components: DiffusionComponents, inputs: tuple[Tensor, Tensor, Tensor, Tensor]
) -> None:
    latents, times, states, empty = inputs
    predictor = NoisePredictor.of(components)
    predict = reference.one_at_a_time(components.unet)
    with torch.no_grad():
        found = predictor.guided(latents, times, states, empty, 3.0)
        for row in range(3):
            literal = reference.guided(predict, latents[row], int(times[row]), states[row], empty[0], 3.0)
            torch.testing.assert_close(found[row], literal, rtol=1e-4, atol=1e-5)
        assert predictor.evaluations == 6
        assert torch.equal(
            predictor.guided(latents, times, states, empty, 1.0), predictor(latents, times, states)
        )
        assert predictor.evaluations == 12
    predictor.reset()
    assert predictor.evaluations == 0


def test_a_velocity_model_speaks_for_itself_and_moves_along_the_noise(
    components: DiffusionComponents, inputs: tuple[Tensor, Tensor, Tensor, Tensor]
) -> None:
    latents, _, states, empty = inputs
    scheduler = training_scheduler(DDIMScheduler(**BETAS, prediction_type="v_prediction"))
    scheduler.set_timesteps(50)
    predictor = NoisePredictor.of(replace(components, scheduler=scheduler))
    levels = reference.alphas_cumprod(0.00085, 0.012, 1000)
    predict = reference.one_at_a_time(components.unet)
    with torch.no_grad():
        found, without = predictor.both(latents, torch.tensor(500), states, empty)
        moved = predictor.moved(latents, found, 500, 480)
    for row in range(3):
        for got, text in ((found, states[row]), (without, empty[0])):
            torch.testing.assert_close(got[row], predict(latents[row], 500, text), rtol=1e-4, atol=1e-5)
        noise = reference.noise_of_velocity(found[row], latents[row], levels[500])
        literal = reference.step(latents[row], noise, levels[500], levels[480])
        torch.testing.assert_close(moved[row], literal, rtol=1e-4, atol=1e-5)
    theirs = scheduler.step(found, 500, latents).prev_sample
    torch.testing.assert_close(moved, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_what_a_model_should_say_is_what_diffusers_trains_it_to(
    components: DiffusionComponents, kind: str
) -> None:
    scheduler = DDIMScheduler(**BETAS, prediction_type=kind)
    predictor = NoisePredictor.of(replace(components, scheduler=scheduler))
    clean, noise = torch.randn((2, 3, 4, 8, 8), generator=torch.Generator().manual_seed(2))
    times = torch.tensor([1, 500, 981])
    expected = noise if kind == "epsilon" else scheduler.get_velocity(clean, noise, times)
    torch.testing.assert_close(predictor.wanted(clean, noise, times), expected, rtol=0, atol=1e-6)


def test_half_precision_weights_give_float32_noise_and_gradients(
    components: DiffusionComponents, inputs: tuple[Tensor, Tensor, Tensor, Tensor]
) -> None:
    latents, times, states, _ = inputs
    components.unet.to(torch.bfloat16)
    wanted = states.clone().requires_grad_()
    with frozen(components.unet):
        noise = NoisePredictor.of(components)(latents, times, wanted)
        noise.square().mean().backward()
    assert noise.dtype == torch.float32
    assert wanted.grad is not None
    assert float(wanted.grad.abs().sum()) > 0
    assert all(weight.grad is None for weight in components.unet.parameters())


@pytest.mark.parametrize("size", [1.0, 1e-6, 1e6])
def test_float16_weights_keep_gradients_of_any_size(
    components: DiffusionComponents, inputs: tuple[Tensor, Tensor, Tensor, Tensor], size: float
) -> None:
    """A mean over a real batch has gradients too small for float16, a scaled loss too large ones."""
    latents, times, states, _ = inputs

    def gradients(dtype: torch.dtype) -> list[Tensor]:
        components.unet.to(dtype)
        wanted = [latents.clone().requires_grad_(), states.clone().requires_grad_()]
        with frozen(components.unet):
            (NoisePredictor.of(components)(wanted[0], times, wanted[1]).square().mean() * size).backward()
        return [one.grad for one in wanted if one.grad is not None]

    exact = gradients(torch.float32)
    for found, expected in zip(gradients(torch.float16), exact, strict=True):
        assert float((found - expected).norm() / expected.norm()) < 0.02


def test_float16_weights_that_take_gradients_get_their_own(
    components: DiffusionComponents, inputs: tuple[Tensor, Tensor, Tensor, Tensor]
) -> None:
    latents, times, states, _ = inputs
    found = []
    for dtype in (torch.float32, torch.float16):
        unet = components.unet.to(dtype).requires_grad_(True)
        unet.zero_grad()
        NoisePredictor.of(components)(latents, times, states).square().mean().backward()
        gradient = unet.conv_out.weight.grad
        assert gradient is not None
        found.append(gradient.float())
    assert float((found[1] - found[0]).norm() / found[0].norm()) < 0.02


def test_states_that_fit_no_batch_are_refused(
    components: DiffusionComponents, inputs: tuple[Tensor, Tensor, Tensor, Tensor]
) -> None:
    latents, times, states, empty = inputs
    predictor = NoisePredictor.of(components)
    with pytest.raises(ConfigError, match="for 3 latents"):
        predictor(latents, times, states[:2])
    with pytest.raises(ConfigError, match="pad both prompts"):
        predictor.both(latents, times, states, empty[:, :5])


def test_another_unet_uses_the_same_schedule(
    components: DiffusionComponents, make_tiny_pipe: Callable[..., StableDiffusionPipeline]
) -> None:
    student = make_tiny_pipe(seed=1).unet
    predictor = NoisePredictor.of(components, unet=student)
    assert predictor.unet is student
    assert len(predictor.alphas_cumprod) == 1000


@pytest.mark.parametrize(("freeze", "least", "most"), [(True, 0.9, 1.1), (False, 1.95, 2.05)])
def test_gradients_to_the_text_states_alone_cost_about_one_forward(
    freeze: bool, least: float, most: float
) -> None:
    """Counted on the UNet of Stable Diffusion 1.x; with weight gradients it is two."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768, sample_size=64)
        latents, states = torch.randn(1, 4, 64, 64), torch.randn(1, 77, 768, requires_grad=True)
        time = torch.tensor(500)
    predictor = NoisePredictor(unet, torch.ones(1000))
    forward, backward = FlopCounterMode(display=False), FlopCounterMode(display=False)
    with frozen(*[unet] * freeze):
        with forward:
            loss = predictor(latents, time, states).square().mean()
        with backward:
            loss.backward()
    assert forward.get_total_flops() > 5e11
    assert least < backward.get_total_flops() / forward.get_total_flops() < most
