"""Weights rounded to 8 bits: the plain way in which models are made small, simulated in the weights' dtype.

Symmetric round to nearest, one scale per output channel, for every linear and convolution layer:

    s_c = max |w_c| / 127        w'_c = s_c * clip(round(w_c / s_c), -127, 127)

An erasure may live in changes smaller than half a step of the grid, which rounding takes away (arXiv
2410.16454 found that for language models). Activations, norms, biases and embeddings are left alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .copies import private_copy

LEVELS = 127
_ROUNDED = (nn.Linear, nn.Conv2d)


def int8_round_trip(weight: Tensor) -> Tensor:
    """A weight as it comes back from 8 bits, of the same shape and dtype.

    Args:
        weight: `(output channels, ...)`.
    """
    rows = weight.detach().float().reshape(weight.shape[0], -1)
    scale = rows.abs().amax(dim=1, keepdim=True) / LEVELS
    # A channel of zeros has no scale, and needs none.
    levels = (rows / scale.where(scale > 0, torch.ones_like(scale))).round().clamp(-LEVELS, LEVELS)
    return (levels * scale).reshape(weight.shape).to(weight.dtype)


def int8_copy(module: nn.Module) -> nn.Module:
    """A copy of a module whose linear and convolution weights went through 8 bits.

    Args:
        module: Text encoder or UNet; not changed.
    """
    copy = private_copy(module)
    with torch.no_grad():
        for layer in copy.modules():
            if isinstance(layer, _ROUNDED):
                layer.weight.copy_(int8_round_trip(layer.weight))
    return copy
