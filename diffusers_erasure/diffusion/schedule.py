"""The noise schedule that a model was trained with, as a DDIM scheduler, and DDIM's step as a formula.

Pipelines ship many schedulers (PNDM, Euler, DPM-Solver, ...) for one trained schedule. Methods sample with
DDIM (Song et al., arXiv:2010.02502) on the grid 1, 1 + N/S, 1 + 2N/S, ... of S out of N timesteps, as the
code of CompVis, ESD and AdvUnlearn does, so the scheduler is built here from the pipeline's own betas.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from diffusers_erasure.errors import ConfigError

_TRAINED = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule")
_OFFSET = 1  # DDIM's grid of CompVis begins at timestep 1


def training_scheduler(scheduler: Any) -> DDIMScheduler:
    """DDIM on the betas and the prediction type of a pipeline's scheduler, whatever that one is.

    Nothing is clipped, the last step goes to `alphas_cumprod[0]`, and timesteps are "leading" with offset 1.

    Args:
        scheduler: A diffusers scheduler; components that have one are taken too.

    Raises:
        ConfigError: It has no betas (flow matching), or the model predicts neither noise nor v.
    """
    config = getattr(scheduler, "scheduler", scheduler).config
    missing = [name for name in _TRAINED if config.get(name) is None]
    if missing:
        raise ConfigError(
            f"{type(scheduler).__name__} has no {', '.join(missing)}; a diffusion model with a schedule of "
            f"betas is needed, as Stable Diffusion has; flow-matching models are not supported"
        )
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in ("epsilon", "v_prediction"):
        raise ConfigError(
            f"the scheduler's prediction_type is {prediction!r}; expected epsilon or v_prediction; load the "
            f"pipeline with the scheduler that it was published with"
        )
    return DDIMScheduler(
        **{name: config[name] for name in _TRAINED},
        trained_betas=config.get("trained_betas"),
        prediction_type=prediction,
        rescale_betas_zero_snr=bool(config.get("rescale_betas_zero_snr", False)),
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=_OFFSET,
        timestep_spacing="leading",
    )


def ddim_grid(steps: int, train_timesteps: int) -> tuple[int, ...]:
    """Timesteps of DDIM in ascending order; the step index counts along it.

    Raises:
        ConfigError: There are not so many timesteps.
    """
    stride = train_timesteps // steps if steps > 0 else 0
    if stride < 1 or (steps - 1) * stride + _OFFSET >= train_timesteps:
        raise ConfigError(
            f"{steps} sampling steps do not fit into {train_timesteps} timesteps; expected 1 to "
            f"{train_timesteps // 2}; 50 is usual"
        )
    return tuple(index * stride + _OFFSET for index in range(steps))


def ddim_step(latents: Tensor, noise: Tensor, timestep: int, previous: int, alphas_cumprod: Tensor) -> Tensor:
    """One deterministic DDIM step (arXiv:2010.02502, equation 12 with σ = 0).

    Args:
        latents: `z_t`, `(batch, channels, height, width)`.
        noise: Predicted noise at `z_t`, of the same shape.
        timestep: t.
        previous: The timestep to go to, below t; anything below 0 means level 0.
        alphas_cumprod: `(train timesteps,)`.
    """
    now = alphas_cumprod[timestep].to(latents.device, latents.dtype)
    then = alphas_cumprod[max(previous, 0)].to(latents.device, latents.dtype)
    clean = (latents - (1 - now).sqrt() * noise) / now.sqrt()
    return then.sqrt() * clean + (1 - then).sqrt() * noise


def told_timesteps(
    step_indices: Tensor, steps: int, train_timesteps: int, generator: torch.Generator | None
) -> Tensor:
    """Timesteps that the code of ESD and AdvUnlearn tells the UNet: uniform in the index's share of all.

    For 50 of 1000 steps, index i draws from 20i to 20i + 19.

    Args:
        step_indices: `(batch,)`.
        steps: Sampling steps.
        train_timesteps: Timesteps of the trained schedule.
        generator: Where the draw comes from.
    """
    share = train_timesteps / steps
    first = (step_indices.double() * share).round().long()
    past = ((step_indices.double() + 1) * share).round().long()
    drawn = torch.rand(first.shape, generator=generator, dtype=torch.float64)
    return first + (drawn * (past - first)).long()
