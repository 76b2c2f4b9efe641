"""Plain attention in a UNet on a CPU, where torch's fused one has the slower gradient.

Both compute the same up to rounding. For small latents the fused one's backward pass takes twice the time of
the plain one. For large ones it takes half of it, and does not make maps of (pixels · pixels), which at 64 by
64 and 6 rows in bfloat16 take 5 GB; there it stays.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0

from .components import latent_shape

_FEW_PIXELS = 16 * 16  # of the latents


def use_plain_attention(unet: UNet2DConditionModel) -> list[tuple[Any, Any]]:
    """Exchange a UNet's fused attention for the plain one where that is faster; others are left alone.

    Returns:
        The layers that were changed, each with the processor that it had.
    """
    _, height, width = latent_shape(unet)
    if unet.device.type != "cpu" or height * width > _FEW_PIXELS:
        return []
    fused: list[Any] = [
        layer
        for layer in unet.modules()
        if isinstance(layer, Attention) and type(layer.processor) is AttnProcessor2_0
    ]
    changed = [(layer, layer.processor) for layer in fused]
    plain = AttnProcessor()
    for layer in fused:
        layer.set_processor(plain)
    return changed


@contextmanager
def plain_attention(unet: UNet2DConditionModel) -> Iterator[None]:
    """The same for a while; afterwards every layer has its own processor again."""
    changed = use_plain_attention(unet)
    try:
        yield
    finally:
        for layer, processor in changed:
            layer.set_processor(processor)
