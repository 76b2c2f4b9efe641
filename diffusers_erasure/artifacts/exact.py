"""Matrix products with the same bits on every machine.

A float64 product depends on the order of its sums, hence on threads, processor and library. Here both
matrices are cut into slices of whole numbers, so few bits each that every partial sum of two slices is exact
in float64 (the idea of Ozaki et al., 2012). With two slices and an inner dimension of 768, entries count to
2**-42 of the largest one in their row or column.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_DIGITS = 53
"""Bits of a float64 that hold digits."""


@dataclass(frozen=True, eq=False)
class Slices:
    """A matrix as (high + low · 2**-bits) · unit, high and low of whole numbers up to 2**bits.

    Attributes:
        high: The leading bits.
        low: The next ones.
        unit: A power of two for each row or column.
        bits: So few that a sum over the inner dimension is exact in float64.
    """

    high: Tensor
    low: Tensor
    unit: Tensor
    bits: int

    def to(self, device: torch.device) -> Slices:
        """The same on another device."""
        return Slices(self.high.to(device), self.low.to(device), self.unit.to(device), self.bits)


def sliced(matrix: Tensor, *, dim: int) -> Slices:
    """Cut a matrix.

    Args:
        matrix: Any floating dtype.
        dim: Its inner dimension in the product: 1 for the left factor, 0 for the right one.
    """
    values = matrix.detach().to(torch.float64)
    bits = (_DIGITS - math.ceil(math.log2(max(matrix.shape[dim], 2)))) // 2
    exponent = torch.frexp(values.abs().amax(dim, keepdim=True)).exponent
    unit = torch.ldexp(torch.ones_like(exponent, dtype=torch.float64), exponent - bits)
    scaled = values / unit
    high = scaled.round()
    return Slices(high, ((scaled - high) * 2.0**bits).round(), unit, bits)


def product(left: Slices, right: Slices) -> Tensor:
    """`left @ right` in float64; what is rounded is added entry by entry, in one order.

    Args:
        left: Cut along its dimension 1, `(rows, d)`.
        right: Cut along its dimension 0, `(d, columns)`.
    """
    mixed = left.high @ right.low + left.low @ right.high
    return (left.high @ right.high + mixed * 2.0**-left.bits) * left.unit * right.unit


def exact_product(left: Tensor, right: Tensor) -> Tensor:
    """`left @ right` in float64 with the same bits everywhere.

    Args:
        left: `(rows, d)`, any floating dtype.
        right: `(d, columns)`.
    """
    return product(sliced(left, dim=1), sliced(right, dim=0))
