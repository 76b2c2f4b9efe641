"""Noisy latents to train on, with what the frozen teacher says there, addressed by a step's draws.

Four ways to make them, by cost:

student      the model in training samples each one (ESD's paper: latents follow what the model has become)
frozen       the teacher samples each one (the present code of ESD's authors)
trajectory   each trajectory of the teacher serves every step index once: the law of `frozen`, draw by draw,
             at a tenth of its cost
pool         the teacher's trajectories are sampled once and drawn from

A text encoder in training reads latents of the teacher in any case, so that the last two change nothing of
the method for it; a pool is a finite sample of the same law.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal, Self

import torch
import torch.distributed as processes
from torch import Tensor

from diffusers_erasure.diffusion import BankMode, DiffusionComponents, NoisePredictor, latent_shape
from diffusers_erasure.diffusion.bank import BankDraw, BankProgress, TrajectoryBank
from diffusers_erasure.diffusion.bank_settings import BankSettings
from diffusers_erasure.errors import ConfigError

from .draws import StepDraws

LatentsFrom = Literal["student", "frozen", "trajectory", "pool"]
BANK_MODES: Mapping[LatentsFrom, BankMode] = MappingProxyType(
    {"student": "fresh", "frozen": "fresh", "trajectory": "per_trajectory", "pool": "pool"}
)
"""How the bank makes each."""
BankReport = Callable[[str, int, int], None]
"""Told which latents are made, how many trajectories are done, and of how many."""


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
        folder: Path | None = None,
        progress: BankProgress | None = None,
    ) -> Self:
        """Make the source; a pool is sampled now, by every process alike, and kept in memory or a folder.

        Args:
            components: The frozen base model.
            prompts: What is sampled for.
            settings: Mode, steps, guidance, alignment.
            sampler: The model that samples, if it is another one than the components'.
            folder: Of a pool, where one process keeps its parts; a pool that was begun there goes on. Several
                processes would all write the same files, and keep theirs in memory.
            progress: Told how far a pool is.

        Raises:
            ConfigError: Several processes would use the same trajectories up.
        """
        if settings.mode == "per_trajectory" and _processes() > 1:
            raise ConfigError(
                f"latents_from trajectory with {_processes()} processes cannot be done: each would use up "
                "the same trajectories; expected one process; take latents_from pool, or frozen"
            )
        told = progress if settings.mode == "pool" else None
        return cls(
            TrajectoryBank.build(
                components,
                prompts,
                settings,
                folder=folder if _processes() == 1 else None,
                sampler=sampler,
                progress=told,
            )
        )

    def draw(self, draws: StepDraws, prompts: Sequence[int]) -> BankDraw:
        """One row for each sample of the pass.

        Args:
            draws: Randomness of the pass.
            prompts: Number of each sample's prompt.
        """
        if self.bank.settings.mode != "fresh":
            rows = [
                self.bank.draw(generator, 1, prompts=[prompt])
                for generator, prompt in zip(draws.samples, prompts, strict=True)
            ]
            return joined(rows)
        path, source = self.bank.source.path, self.bank.source
        positions = draws.integers(path.steps)
        told = path.told(positions, draws.samples)
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


def told_of(progress: BankReport | None, what: str) -> BankProgress | None:
    """Someone to tell how far one of several pools is."""
    if progress is None:
        return None
    return lambda done, total: progress(what, done, total)


def _processes() -> int:
    """Processes that train together."""
    together = processes.is_available() and processes.is_initialized()
    return processes.get_world_size() if together else 1


def joined(rows: Sequence[BankDraw]) -> BankDraw:
    """Draws one after the other as one draw."""
    without = [row.target_unconditional for row in rows if row.target_unconditional is not None]
    return BankDraw(
        torch.cat([row.latents for row in rows]),
        torch.cat([row.timesteps for row in rows]),
        torch.cat([row.target_conditional for row in rows]),
        torch.cat(without) if len(without) == len(rows) else None,
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
