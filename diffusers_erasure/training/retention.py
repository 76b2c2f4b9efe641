"""What must stay: latents of the retain prompts with what the frozen original says there.

The retain set's latents depend neither on what is trained nor on what is erased, so a pool of them can lie in
a folder and serve every concept of one base model: it then holds the whole set, and a run draws only from the
prompts that its concepts leave in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from diffusers_erasure.diffusion import (
    BankDraw,
    DiffusionComponents,
    NoisePredictor,
    TextPath,
    TrajectoryBank,
)
from diffusers_erasure.diffusion.bank import BankProgress
from diffusers_erasure.diffusion.bank_settings import BankSettings
from diffusers_erasure.errors import ConfigError
from diffusers_erasure.prompts import World, retain_set_prompts, select_retain_prompts

from .draws import StepDraws
from .latents import joined
from .retain_settings import RetainSetConfig


@dataclass(frozen=True)
class Retention:
    """Source of retain rows.

    Attributes:
        bank: Latents and targets of prompts.
        kept: Numbers of those that are retained.
        ids: Tokens of all of the bank's prompts, `(prompts, tokens)`.
        batch: Rows beside each sample.
    """

    bank: TrajectoryBank
    kept: tuple[int, ...]
    ids: Tensor
    batch: int

    @classmethod
    def build(
        cls,
        components: DiffusionComponents,
        config: RetainSetConfig,
        settings: BankSettings,
        *,
        world: World,
        sampler: NoisePredictor | None = None,
        progress: BankProgress | None = None,
    ) -> Self:
        """Choose the prompts and make, or open, their latents.

        Args:
            components: The frozen base model.
            config: Names the retain set, its rule and the concepts that it must not speak of.
            settings: How latents are made.
            world: Whose prompts the set's name stands for.
            sampler: The model in training, if it is the one that samples.
            progress: Told how far a pool is.

        Raises:
            ConfigError: The set cannot be used or is smaller than a batch, or the folder holds another bank.
        """
        kept = _kept_prompts(config, world)
        shared = bool(config.retain_bank)
        if shared:  # the seed of a run decides what it draws, not what lies in the folder for all of them
            settings = settings.model_copy(update={"seed": 0})
        prompts = _whole_set(config, world) if shared else kept
        bank = TrajectoryBank.build(
            components,
            prompts,
            settings,
            folder=Path(config.retain_bank) if shared else None,
            sampler=sampler,
            progress=progress,
        )
        place = {prompt: number for number, prompt in enumerate(prompts)}
        numbers = tuple(place[prompt] for prompt in kept)
        return cls(bank, numbers, TextPath(components).ids(prompts), config.retain_batch_size)

    @property
    def prompts(self) -> tuple[str, ...]:
        """What is retained."""
        return tuple(self.bank.prompts[number] for number in self.kept)

    def draw(self, draws: StepDraws) -> BankDraw:
        """Rows of different prompts for each sample of the pass, those of the first sample first."""
        return joined([self._draw(generator) for generator in draws.samples])

    def _draw(self, generator: torch.Generator) -> BankDraw:
        chosen = torch.randperm(len(self.kept), generator=generator)[: self.batch].tolist()
        return self.bank.draw(generator, self.batch, prompts=[self.kept[number] for number in chosen])


def _kept_prompts(config: RetainSetConfig, world: World) -> tuple[str, ...]:
    found = select_retain_prompts(
        config.concepts,
        world=world,
        source=config.retain_set,
        exclude=config.retain_exclude,
        rule=config.retain_rule,
        with_empty=config.retain_empty,
        limit=config.max_retain_prompts,
    ).prompts
    if len(found) < config.retain_batch_size:
        raise ConfigError(
            f"the retain set {config.retain_set!r} has {len(found)} prompts left; expected at least the "
            f"{config.retain_batch_size} of a batch; take a larger set, exclude less, or lower "
            "retain_batch_size"
        )
    return found


def _whole_set(config: RetainSetConfig, world: World) -> Sequence[str]:
    """Every prompt of the set, and the empty one: the same for every concept."""
    return ("", *(one for one in retain_set_prompts(config.retain_set, world=world) if one))
