"""Gradients to what an attack varies, and to nothing else.

A backward pass that also makes weight gradients costs two forward passes; one that only goes back to the text
states costs 0.97 (measured on the SD 1.x UNet). So encoder and UNet are frozen while an attack searches. On a
CPU the gradient of torch's fused attention is slow for small heads, so diffusers' plain one stands in for it;
pictures are drawn outside, by the pipeline as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from torch import Tensor

from diffusers_erasure.diffusion.parameters import frozen
from diffusers_erasure.errors import NotFiniteError

from .base import AttackTarget
from .config import Precision

HALF_LOSS_SCALE = 1024.0
"""Losses are multiplied by this, and gradients divided, where weights are float16, to keep small ones."""


@contextmanager
def searching(target: AttackTarget, precision: Precision = "float32") -> Iterator[None]:
    """Freeze a pipeline's weights and make gradients cheap; everything is as before afterwards.

    Args:
        target: Whose text encoder and UNet.
        precision: "bfloat16" runs matrix products under autocast.
    """
    parts = target.components
    device = target.device.type
    with (
        frozen(parts.unet, parts.text_encoder),
        plain_attention(parts.unet, device == "cpu"),
        torch.enable_grad(),
        torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16"),
    ):
        yield


@contextmanager
def plain_attention(unet: UNet2DConditionModel, enabled: bool = True) -> Iterator[None]:
    """Exchange a UNet's fused attention for the plain one, which computes the same; others are left alone."""
    layers: list[Any] = [
        layer
        for layer in (unet.modules() if enabled else ())
        if isinstance(layer, Attention) and type(layer.processor) is AttnProcessor2_0
    ]
    before = [layer.processor for layer in layers]
    plain = AttnProcessor()
    try:
        for layer in layers:
            layer.set_processor(plain)
        yield
    finally:
        for layer, processor in zip(layers, before, strict=True):
            layer.set_processor(processor)


def gradient_to(variable: Tensor, losses: Tensor, dtype: torch.dtype) -> Tensor:
    """Gradient of the sum of independent losses, `(batch,)`, to a variable `(batch, ...)`.

    Args:
        variable: What the losses are computed from; the only thing that gets a gradient.
        losses: One per row, so that rows do not touch each other.
        dtype: Of the network's weights; float16 ones are scaled.

    Raises:
        NotFiniteError: A loss is not finite.
    """
    if not bool(torch.isfinite(losses).all()):
        raise NotFiniteError(
            f"{int((~torch.isfinite(losses)).sum())} of {len(losses)} losses of the search are not finite; "
            "expected numbers; check the pipeline's weights, or use float32"
        )
    scale = HALF_LOSS_SCALE if dtype is torch.float16 else 1.0
    (gradient,) = torch.autograd.grad(losses.sum() * scale, variable)
    return gradient.float() / scale
