"""Gradients to what an attack varies, and to nothing else.

A backward pass that also makes weight gradients costs two forward passes; one that only goes back to the text
states costs 0.97 (measured on the SD 1.x UNet). So encoder and UNet are frozen while an attack searches, with
plain attention where its gradient is the faster one; pictures are drawn outside, by the pipeline as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from diffusers_erasure.diffusion.attention import plain_attention
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
        plain_attention(parts.unet),
        torch.enable_grad(),
        torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16"),
    ):
        yield


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
