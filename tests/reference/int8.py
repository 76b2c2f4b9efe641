"""Rounding to 8 bits, one weight after another."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal

import torch
from torch import Tensor


def int8_round_trip(weight: Tensor) -> Tensor:
    """Symmetric round to nearest with one scale per output channel, in double precision."""
    result = torch.zeros(weight.shape, dtype=torch.float64)
    for channel in range(weight.shape[0]):
        values = weight[channel].double().flatten().tolist()
        largest = max(abs(value) for value in values)
        if largest == 0:
            continue
        scale = largest / 127
        rounded = []
        for value in values:
            level = int(Decimal(value / scale).quantize(Decimal(1), rounding=ROUND_HALF_EVEN))
            rounded.append(scale * max(-127, min(127, level)))
        result[channel] = torch.tensor(rounded, dtype=torch.float64).reshape(weight.shape[1:])
    return result
