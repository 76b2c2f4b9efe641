"""The parts of a Stable Diffusion pipeline that methods and attacks work with, as one bundle."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, DiffusionPipeline, SchedulerMixin, UNet2DConditionModel
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from diffusers_erasure.errors import ConfigError

_NEEDED = ("tokenizer", "text_encoder", "unet", "vae", "scheduler")


@dataclass(frozen=True)
class DiffusionComponents:
    """Tokenizer, text encoder, UNet, VAE and scheduler: the pipeline's own objects, not copies."""

    tokenizer: PreTrainedTokenizerBase
    text_encoder: PreTrainedModel
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    scheduler: SchedulerMixin

    @classmethod
    def from_pipeline(cls, pipe: DiffusionPipeline) -> DiffusionComponents:
        """Take the parts of any pipeline of the Stable Diffusion 1.x and 2.x shape.

        Raises:
            ConfigError: A part is missing, or there is a second text encoder.
        """
        parts: dict[str, Any] = {name: getattr(pipe, name, None) for name in _NEEDED}
        missing = [name for name, part in parts.items() if part is None]
        if missing:
            raise ConfigError(
                f"{type(pipe).__name__} has no {', '.join(missing)}; a Stable Diffusion pipeline with "
                f"{', '.join(_NEEDED)} is needed; load the complete pipeline"
            )
        if getattr(pipe, "text_encoder_2", None) is not None:
            raise ConfigError(
                f"{type(pipe).__name__} has two text encoders; this needs a pipeline with one, as Stable "
                f"Diffusion 1.x and 2.x have; choose such a base model"
            )
        return cls(**parts)

    @property
    def max_tokens(self) -> int:
        """Length to which prompts are padded."""
        positions = getattr(self.text_encoder.config, "max_position_embeddings", None)
        longest = int(self.tokenizer.model_max_length)
        return longest if positions is None else min(longest, int(positions))

    @property
    def text_width(self) -> int:
        """Width of the text states that cross-attention reads."""
        return int(self.text_encoder.config.hidden_size)

    @property
    def text_device(self) -> torch.device:
        """Where token ids go: the text encoder's device; the CPU if hooks move its weights in and out."""
        device = next(self.text_encoder.parameters()).device
        return torch.device("cpu") if device.type == "meta" else device


def latent_shape(unet: UNet2DConditionModel) -> tuple[int, int, int]:
    """Channels, height and width of the latents that a UNet was trained on."""
    size = unet.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    return int(unet.config.in_channels), int(height), int(width)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Run a module without dropout and gradients, and leave its training flags as they were."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part in training:
            part.training = True
