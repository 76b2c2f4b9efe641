"""The text path of erased pipelines: states that have to be finite, and `clip_skip`.

In stock diffusers 0.42 `clip_skip` of SD 1.x and 2.x raises with transformers 5.6 and later (it looks the
final layer norm up where it no longer is). Here it works where the erasure lives in the UNet alone. Where it
lives in the text encoder it is refused unless asked for twice: an encoder is trained to erase in the layer
that is read, and earlier ones may show the concept as they always did.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.loaders import TextualInversionLoaderMixin
from diffusers.utils import USE_PEFT_BACKEND, scale_lora_layers, unscale_lora_layers
from torch import Tensor

from diffusers_erasure.artifacts.apply import AppliedErasure
from diffusers_erasure.errors import ConfigError, ErasureBypassError, ErasureNotActiveError

logger = logging.getLogger(__name__)


def check_finite(values: Tensor, what: str) -> None:
    """Refuse what would come out as a black picture and pass for an erasure."""
    if not bool(torch.isfinite(values).all()):
        count = int((~torch.isfinite(values)).sum())
        raise ErasureNotActiveError(
            f"{what}: {count} of {values.numel()} values are not finite; expected numbers, a picture made of "
            "these is black, which is a broken model and not an erasure; load the pipeline again, or use "
            "float32"
        )


def check_clip_skip(clip_skip: object, most: int) -> None:
    """Refuse a number of layers that cannot be left out of a text encoder."""
    if isinstance(clip_skip, bool) or not isinstance(clip_skip, int) or not 0 <= clip_skip <= most:
        raise ConfigError(
            f"clip_skip={clip_skip!r}; expected 0 to {most}, the encoder's layers; give another"
        )


def refuse_clip_skip(erasures: tuple[AppliedErasure, ...]) -> None:
    """The error for `clip_skip` where the erasure lives in the text encoder."""
    names = ", ".join(erasure.name for erasure in erasures)
    raise ErasureBypassError(
        f"clip_skip reads an earlier layer of the text encoder than the erasure of {names} was made for: it "
        "may show the concept as it always did; leave clip_skip out, or pass allow_clip_skip=True"
    )


def encode_skipping(
    pipe: Any, prompt: str | list[str], device: torch.device, *, clip_skip: int, lora_scale: float | None
) -> Tensor:
    """Prompt states `(batch, tokens, width)` from `clip_skip` layers before the last, through the final norm.

    Args:
        pipe: Pipeline with tokenizer and text encoder.
        prompt: One prompt or a batch.
        device: Where the states are computed.
        clip_skip: 0 is the last layer, 1 the one before.
        lora_scale: Strength of a LoRA on the text encoder.
    """
    encoder = pipe.text_encoder
    check_clip_skip(clip_skip, encoder.config.num_hidden_layers)
    if isinstance(pipe, TextualInversionLoaderMixin):
        prompt = pipe.maybe_convert_prompt(prompt, pipe.tokenizer)
    inputs = pipe.tokenizer(
        prompt,
        padding="max_length",
        max_length=pipe.tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    mask = inputs.attention_mask.to(device) if getattr(encoder.config, "use_attention_mask", False) else None
    with _lora_strength(encoder, lora_scale):
        states = encoder(
            inputs.input_ids.to(device), attention_mask=mask, output_hidden_states=True
        ).hidden_states
    final_norm = getattr(encoder, "text_model", encoder).final_layer_norm
    skipped: Tensor = final_norm(states[-(clip_skip + 1)])
    return skipped


@contextmanager
def _lora_strength(encoder: torch.nn.Module, scale: float | None) -> Iterator[None]:
    if scale is None or not USE_PEFT_BACKEND:
        yield
        return
    scale_lora_layers(encoder, scale)
    try:
        yield
    finally:
        unscale_lora_layers(encoder, scale)
