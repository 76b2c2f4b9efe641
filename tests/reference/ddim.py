"""DDIM with classifier-free guidance, literally: one latent, one step, one evaluation at a time.

Written from Song et al., arXiv:2010.02502 (equation 12 with sigma = 0), Ho and Salimans, arXiv:2207.12598,
and Salimans and Ho, arXiv:2202.00512, appendix D. Slow on purpose; it shares no code with the package.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Predict = Callable[[Tensor, int, Tensor], Tensor]
"""Noise `(channels, height, width)` of one latent, at a timestep, for text states `(tokens, width)`."""


def alphas_cumprod(beta_start: float, beta_end: float, count: int) -> list[float]:
    """Products of 1 - beta for betas whose square roots are equally spaced ("scaled linear")."""
    products, product = [], 1.0
    for index in range(count):
        root = math.sqrt(beta_start) + (math.sqrt(beta_end) - math.sqrt(beta_start)) * index / (count - 1)
        product *= 1 - root**2
        products.append(product)
    return products


def step(latent: Tensor, noise: Tensor, level: float, next_level: float) -> Tensor:
    """sqrt(a') * (x - sqrt(1 - a) e) / sqrt(a)  +  sqrt(1 - a') e, in double precision."""
    x, e = latent.double(), noise.double()
    predicted_clean = (x - math.sqrt(1 - level) * e) / math.sqrt(level)
    return (math.sqrt(next_level) * predicted_clean + math.sqrt(1 - next_level) * e).to(latent.dtype)


def noise_of_velocity(velocity: Tensor, latent: Tensor, level: float) -> Tensor:
    """The noise e from v = sqrt(a) e - sqrt(1 - a) x_0 and x = sqrt(a) x_0 + sqrt(1 - a) e, solved for e."""
    return math.sqrt(level) * velocity + math.sqrt(1 - level) * latent


def guided(
    predict: Predict, latent: Tensor, timestep: int, prompt: Tensor, empty: Tensor, w: float
) -> Tensor:
    """e_0 + w (e_c - e_0), by two separate evaluations."""
    without = predict(latent, timestep, empty)
    return without + w * (predict(latent, timestep, prompt) - without)


def aligned_sample(
    predict: Predict,
    latent: Tensor,
    prompt: Tensor,
    empty: Tensor,
    *,
    levels: list[float],
    steps: int,
    index: int,
    scale: float,
) -> tuple[Tensor, int]:
    """Sample from the noisiest timestep of the grid down to the one of that index; latent and timestep."""
    grid = [number * (len(levels) // steps) + 1 for number in range(steps)]
    place = steps - 1
    while place > index:
        noise = guided(predict, latent, grid[place], prompt, empty, scale)
        latent = step(latent, noise, levels[grid[place]], levels[grid[place - 1]])
        place -= 1
    return latent, grid[index]


def compvis_sample(
    predict: Predict,
    latent: Tensor,
    prompt: Tensor,
    empty: Tensor,
    *,
    levels: list[float],
    steps: int,
    till: int,
    scale: float,
) -> Tensor:
    """The sampling loop of the authors' code, with its early return.

    The last entry of the grid is dropped. Going down the rest, it returns once `index + 1 == till`; the step
    of index 0 goes to the level of timestep 0.
    """
    grid = [number * (len(levels) // steps) + 1 for number in range(steps)][:-1]
    before = [levels[0], *(levels[timestep] for timestep in grid[:-1])]
    for index in reversed(range(len(grid))):
        noise = guided(predict, latent, grid[index], prompt, empty, scale)
        latent = step(latent, noise, levels[grid[index]], before[index])
        if index + 1 == till:
            break
    return latent


def one_at_a_time(unet: torch.nn.Module) -> Predict:
    """A UNet as `Predict`, with nothing batched."""

    def predict(latent: Tensor, timestep: int, states: Tensor) -> Tensor:
        with torch.no_grad():
            return unet(latent[None], timestep, encoder_hidden_states=states[None]).sample[0]

    return predict
