"""The parts of a Stable Diffusion pipeline that methods and attacks work with, as one bundle.

SDXL has two text encoders (Podell et al., arXiv:2307.01952, section 2.1). Their states, side by side, are
what cross-attention reads; a pooled state of the second goes another way, into the UNet's time embedding.
Who reads only states for cross-attention asks for both; everyone else is given one, or an error.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, DiffusionPipeline, SchedulerMixin, UNet2DConditionModel
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from diffusers_erasure.errors import ConfigError

logger = logging.getLogger(__name__)

_NEEDED = ("tokenizer", "text_encoder", "unet", "vae", "scheduler")
_SECOND = ("tokenizer_2", "text_encoder_2")


@dataclass(frozen=True)
class DiffusionComponents:
    """Tokenizer, text encoder, UNet, VAE and scheduler: the pipeline's own objects, not copies.

    `tokenizer_2` and `text_encoder_2` are None but for pipelines of the SDXL shape.
    """

    tokenizer: PreTrainedTokenizerBase
    text_encoder: PreTrainedModel
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    scheduler: SchedulerMixin
    tokenizer_2: PreTrainedTokenizerBase | None = None
    text_encoder_2: PreTrainedModel | None = None

    @classmethod
    def from_pipeline(cls, pipe: DiffusionPipeline, *, second_encoder: bool = False) -> DiffusionComponents:
        """Take the parts of any pipeline of the Stable Diffusion 1.x and 2.x shape.

        Args:
            pipe: Whose parts.
            second_encoder: Take pipelines of the SDXL shape too. What is done with them reaches
                cross-attention only, not the pooled state of encoder 2; a warning says so.

        Raises:
            ConfigError: A part is missing, or there is a second text encoder that was not asked for or that
                does not go with the first.
        """
        parts: dict[str, Any] = {name: getattr(pipe, name, None) for name in _NEEDED}
        missing = [name for name, part in parts.items() if part is None]
        if missing:
            raise ConfigError(
                f"{type(pipe).__name__} has no {', '.join(missing)}; a Stable Diffusion pipeline with "
                f"{', '.join(_NEEDED)} is needed; load the complete pipeline"
            )
        second: dict[str, Any] = {name: getattr(pipe, name, None) for name in _SECOND}
        if second["text_encoder_2"] is None:
            return cls(**parts)
        if not second_encoder:
            raise ConfigError(
                f"{type(pipe).__name__} has two text encoders; this needs a pipeline with one, as Stable "
                f"Diffusion 1.x and 2.x have; choose such a base model"
            )
        components = cls(**parts, **second)
        _check_two_encoders(components, type(pipe).__name__)
        logger.warning(
            "the pooled text state of text_encoder_2 of %s reaches its UNet past the cross-attention; only "
            "what cross-attention reads is seen and edited; measure afterwards what the pooled state still "
            "tells of the concept",
            type(pipe).__name__,
        )
        return components

    @property
    def max_tokens(self) -> int:
        """Length to which prompts are padded."""
        return _longest(self.tokenizer, self.text_encoder)

    @property
    def text_encoders(self) -> tuple[tuple[PreTrainedTokenizerBase, PreTrainedModel], ...]:
        """Each text encoder with its tokenizer, in the order in which their states stand side by side."""
        first = (self.tokenizer, self.text_encoder)
        if self.tokenizer_2 is None or self.text_encoder_2 is None:
            return (first,)
        return (first, (self.tokenizer_2, self.text_encoder_2))

    @property
    def text_width(self) -> int:
        """Width of the text states that cross-attention reads: of all text encoders together."""
        return sum(int(encoder.config.hidden_size) for _, encoder in self.text_encoders)

    @property
    def text_device(self) -> torch.device:
        """Where token ids go: the text encoder's device; the CPU if hooks move its weights in and out."""
        return device_of_ids(self.text_encoder)


def device_of_ids(encoder: nn.Module) -> torch.device:
    """Where the token ids of one text encoder go."""
    device = next(encoder.parameters()).device
    return torch.device("cpu") if device.type == "meta" else device


def _longest(tokenizer: PreTrainedTokenizerBase, encoder: PreTrainedModel) -> int:
    """Length to which a pipeline pads prompts for one encoder."""
    positions = getattr(encoder.config, "max_position_embeddings", None)
    longest = int(tokenizer.model_max_length)
    return longest if positions is None else min(longest, int(positions))


def _check_two_encoders(components: DiffusionComponents, owner: str) -> None:
    """Refuse a second text encoder that does not go with the first as SDXL's does."""
    if components.tokenizer_2 is None:
        raise ConfigError(
            f"{owner} has a text_encoder_2 but no tokenizer_2; a pipeline of the SDXL shape needs both; load "
            f"the complete pipeline"
        )
    kinds = [str(encoder.config.model_type) for _, encoder in components.text_encoders]
    if not all(kind.startswith("clip") for kind in kinds):
        raise ConfigError(
            f"the text encoders of {owner} are {' and '.join(map(repr, kinds))}; two CLIP text encoders are "
            f"needed, whose states stand side by side as in SDXL; choose a Stable Diffusion base model"
        )
    lengths = [_longest(tokenizer, encoder) for tokenizer, encoder in components.text_encoders]
    if len(set(lengths)) > 1:
        raise ConfigError(
            f"the text encoders of {owner} read {' and '.join(map(str, lengths))} tokens; both must read as "
            f"many, so that their states stand side by side; load the tokenizers that belong to the pipeline"
        )


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
