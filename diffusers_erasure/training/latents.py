"""Noisy latents to train on, with what the frozen teacher says there, addressed by a step's draws.

Three ways to make them, by cost:

student   the model in training samples each one (ESD's paper: the latents follow what the model has become)
frozen    the teacher samples each one (the present code of ESD's authors)
pool      the teacher's trajectories are sampled once and drawn from; for a text encoder in training, whose
          latents come from the teacher anyway, this is the same law at a fraction of the cost
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor

from diffusers_erasure.diffusion import DiffusionComponents, NoisePredictor, latent_shape
from diffusers_erasure.diffusion.bank import BankDraw, BankProgress, TrajectoryBank
from diffusers_erasure.diffusion.bank_settings import BankSettings
from diffusers_erasure.errors import ConfigError

from .draws import StepDraws

LatentsFrom = Literal["student", "frozen", "pool"]


@dataclass(frozen=True)
class TeacherLatents:
    """Source of latents and targets of the frozen model.

    Attributes:
        bank: What samples, or keeps what was sampled.
    """

    bank: TrajectoryBank

    @classmethod
    def build(
        cls,
        components: DiffusionComponents,
        prompts: Sequence[str],
        settings: BankSettings,
        *,
        sampler: NoisePredictor | None = None,
        progress: BankProgress | None = None,
    ) -> Self:
        """Make the source; a pool is sampled now, by every process alike, and kept in memory.

        Args:
            components: The frozen base model.
            prompts: What is sampled for.
            settings: Mode "fresh" or "pool", steps, guidance, alignment.
            sampler: The model in training, if it is the one that samples.
            progress: Told how far a pool is.
        """
        told = progress if settings.mode == "pool" else None
        return cls(TrajectoryBank.build(components, prompts, settings, sampler=sampler, progress=told))

    def draw(self, draws: StepDraws, prompts: Sequence[int]) -> BankDraw:
        """One row for each sample of the pass.

        Args:
            draws: Randomness of the pass.
            prompts: Number of each sample's prompt.
        """
        if self.bank.settings.mode == "pool":
            rows = [
                self.bank.draw(generator, 1, prompts=[prompt])
                for generator, prompt in zip(draws.samples, prompts, strict=True)
            ]
            return _joined(rows)
        path, source = self.bank.source.path, self.bank.source
        positions = draws.integers(path.steps)
        told = torch.cat(
            [
                path.timesteps([position], generator)
                for position, generator in zip(positions, draws.samples, strict=True)
            ]
        )
        chosen = torch.tensor(list(prompts))
        noise = draws.normal(*latent_shape(source.predictor.unet))
        pairs = source.sample(
            chosen,
            noise,
            torch.tensor(positions)[:, None],
            told[:, None],
            batch_size=self.bank.settings.batch_size,
        )
        return BankDraw(pairs.latents, pairs.timesteps, pairs.conditional, pairs.unconditional, chosen)


def _joined(rows: Sequence[BankDraw]) -> BankDraw:
    """Draws of one row each as one draw."""
    return BankDraw(
        torch.cat([row.latents for row in rows]),
        torch.cat([row.timesteps for row in rows]),
        torch.cat([row.target_conditional for row in rows]),
        torch.cat([unconditional_of(row) for row in rows]),
        torch.cat([row.prompt_index for row in rows]),
    )


def unconditional_of(draw: BankDraw) -> Tensor:
    """The teacher's prediction for the unconditional prompt.

    Raises:
        ConfigError: The bank keeps none.
    """
    if draw.target_unconditional is None:
        raise ConfigError(
            "the bank keeps no predictions for the unconditional prompt; this method's target needs them; "
            "build the bank with unconditional=True"
        )
    return draw.target_unconditional
