"""Latents on the way from noise to a picture: sample with guidance, and stop at a given step.

ESD (arXiv:2303.07345), AdvUnlearn (arXiv:2405.15234) and the attacks train on latents that the model itself
makes for the concept, at a random point of its own sampling. `step_index` counts the grid of `ddim_grid` from
the clean end: 0 is the least noisy, `steps - 1` the noise itself.

Two ways to say which latent belongs to an index:

aligned   start at the last timestep of the grid and stop *at* timestep `grid[step_index]`; the UNet is then
          asked at exactly that timestep. `steps - 1 - step_index` steps.
compvis   what the authors' code does: start one timestep later in the schedule (`grid[-2]`), stop after
          arriving at `grid[step_index - 2]` (level 0 for the indices 0 and 1), and tell the UNet a timestep
          drawn from the index's share of all timesteps, so that the latent is 39 to 58 timesteps cleaner than
          it is said to be. For comparison with published numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from diffusers_erasure.errors import ConfigError

from .noise import NoisePredictor, one_per_latent
from .schedule import ddim_grid, told_timesteps

Alignment = Literal["aligned", "compvis"]


@dataclass(frozen=True)
class SamplingPath:
    """Which DDIM steps a sampling run takes.

    Attributes:
        steps: Sampling steps S.
        train_timesteps: Timesteps N of the trained schedule.
        alignment: See the module's text.
    """

    steps: int = 50
    train_timesteps: int = 1000
    alignment: Alignment = "aligned"

    @property
    def grid(self) -> tuple[int, ...]:
        """Timesteps in ascending order, one for each step index."""
        return ddim_grid(self.steps, self.train_timesteps)

    @property
    def moves(self) -> tuple[tuple[int, int], ...]:
        """(from, to) of every step in the order in which they are taken; below 0 means level 0."""
        grid = self.grid
        first = self.steps - 1 if self.alignment == "aligned" else self.steps - 2
        return tuple((grid[i], grid[i - 1] if i > 0 else -1) for i in range(first, -1, -1))

    def moves_until(self, step_index: int) -> int:
        """How many of the moves lead to the latents of a step index."""
        if not 0 <= step_index < self.steps:
            raise ConfigError(
                f"the step index {step_index} is not on a grid of {self.steps} steps; expected 0 to "
                f"{self.steps - 1}; 0 is the least noisy"
            )
        if self.alignment == "aligned":
            return self.steps - 1 - step_index
        return self.steps - max(step_index, 1)

    def timesteps(self, step_indices: Sequence[int], generator: torch.Generator | None = None) -> Tensor:
        """Timesteps `(batch,)` that the UNet is told at these step indices; compvis draws them."""
        if self.alignment == "compvis":
            return told_timesteps(torch.tensor(step_indices), self.steps, self.train_timesteps, generator)
        return torch.tensor([self.grid[index] for index in step_indices])

    def told(self, step_indices: Sequence[int], generators: Sequence[torch.Generator]) -> Tensor:
        """The same with a generator for each row, so that a batch is drawn as its rows are one by one."""
        if not generators:
            return self.timesteps(step_indices)
        pairs = zip(step_indices, generators, strict=True)
        return torch.cat([self.timesteps([index], generator) for index, generator in pairs])


@torch.no_grad()
def partial_sample(  # noqa: PLR0913 - the draw's inputs and the sampler's three settings
    predictor: NoisePredictor,
    states: Tensor,
    unconditional: Tensor,
    *,
    noise: Tensor,
    step_index: int | Sequence[int],
    steps: int = 50,
    guidance_scale: float = 3.0,
    alignment: Alignment = "aligned",
    generators: Sequence[torch.Generator] = (),
) -> tuple[Tensor, Tensor]:
    """Sample every row until its step index; all rows run as one batch, which shrinks as they arrive.

    Args:
        predictor: The model that samples.
        states: Text states, `(batch, tokens, width)`, or one row for all.
        unconditional: States of the unconditional prompt, one row for all or one for each.
        noise: The start, from N(0, I), `(batch, channels, height, width)`.
        step_index: Where to stop: one for all rows, or one for each.
        steps: Sampling steps of a whole run.
        guidance_scale: Classifier-free guidance while sampling (3 in ESD and AdvUnlearn).
        alignment: Which latent and timestep belong to an index.
        generators: CPU generators for the timesteps that "compvis" draws, one for each row; none draws them
            from the global one.

    Returns:
        Latents `(batch, channels, height, width)`, float32, and the timesteps `(batch,)` to ask the UNet at.
    """
    batch = noise.shape[0]
    path = SamplingPath(steps, len(predictor.alphas_cumprod), alignment)
    indices = [step_index] * batch if isinstance(step_index, int) else [int(index) for index in step_index]
    if len(indices) != batch:
        raise ConfigError(
            f"{len(indices)} step indices came with {batch} rows of noise; expected one for all or one for "
            f"each row; give as many indices as rows"
        )
    wanted = torch.tensor([path.moves_until(index) for index in indices])
    conditional = one_per_latent(states, batch)
    without = one_per_latent(unconditional, batch)
    latents = noise.float().clone()
    for move, (timestep, previous) in enumerate(path.moves[: int(wanted.max()) if batch else 0]):
        rows = (wanted > move).nonzero().flatten().to(latents.device)
        now = latents[rows]
        told = torch.tensor(timestep, device=latents.device)
        predicted = predictor.guided(
            now,
            told,
            conditional[rows.to(conditional.device)],
            without[rows.to(without.device)],
            guidance_scale,
        ).to(latents.device)
        latents[rows] = predictor.moved(now, predicted, timestep, previous)
    return latents, path.told(indices, generators).to(latents.device)
