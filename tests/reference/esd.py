"""ESD (arXiv:2303.07345), literally: one number at a time, one sample at a time.

Slow on purpose. It is written from the paper's formula and the authors' description and shares no code with
the package.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Predict = Callable[[Tensor, int, str], Tensor]
"""Noise that a model predicts for one latent `(channels, height, width)`, a timestep, and a prompt."""


def paper_target(
    noise_concept: float, noise_empty: float, eta: float, noise_scope: float | None = None
) -> float:
    """One entry of what the paper wants predicted: guided away from the concept."""
    start = noise_empty if noise_scope is None else noise_scope
    direction_of_concept = noise_concept - start
    return start - eta * direction_of_concept


def code_target(
    noise_concept: float, noise_empty: float, eta: float, noise_scope: float | None = None
) -> float:
    """One entry of what the authors' present code wants predicted."""
    start = noise_concept if noise_scope is None else noise_scope
    direction_of_concept = noise_concept - noise_empty
    return start - eta * direction_of_concept


def sample_until(
    predict: Predict,
    start: Tensor,
    prompt: str,
    timesteps: Sequence[int],
    alphas: Sequence[float],
    guidance: float,
) -> Tensor:
    """DDIM without noise over timesteps in descending order, the last of them the one to arrive at.

    Args:
        predict: The model that samples.
        start: `(channels, height, width)` from N(0, I).
        prompt: What is sampled.
        timesteps: Where the sampler stands, in order; it is not moved on from the last one.
        alphas: Cumulative product of 1 - beta, one for each timestep.
        guidance: Scale of classifier-free guidance.
    """
    z = start
    for now, following in itertools.pairwise(timesteps):
        with_prompt, without = predict(z, now, prompt), predict(z, now, "")
        noise = without + guidance * (with_prompt - without)
        clean = (z - math.sqrt(1 - alphas[now]) * noise) / math.sqrt(alphas[now])
        z = math.sqrt(alphas[following]) * clean + math.sqrt(1 - alphas[following]) * noise
    return z


def loss(
    student: Predict,
    teacher: Predict,
    latents: Sequence[Tensor],
    timesteps: Sequence[int],
    prompt: str,
    eta: float,
) -> Tensor:
    """The paper's squared distance, as a mean over all entries of all samples."""
    total, count = torch.zeros(()), 0
    for latent, timestep in zip(latents, timesteps, strict=True):
        concept, empty = teacher(latent, timestep, prompt).detach(), teacher(latent, timestep, "").detach()
        found = student(latent, timestep, prompt)
        for index in range(latent.numel()):
            wanted = paper_target(float(concept.flatten()[index]), float(empty.flatten()[index]), eta)
            total = total + (found.flatten()[index] - wanted) ** 2
            count += 1
    return total / count
