"""UCE's equation 7 (arXiv:2308.14761), literally: one layer at a time, one outer product at a time.

Slow on purpose. It is written from the paper's formula and shares no code with the package.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def edited_weight(
    old: Tensor,
    edited: Sequence[tuple[Tensor, Tensor]],
    preserved: Sequence[Tensor],
    *,
    erase_scale: float = 1.0,
    preserve_scale: float = 1.0,
    lamb: float = 0.0,
) -> Tensor:
    """The new weight of one layer.

    Args:
        old: W_old, `(out, width)`.
        edited: For each concept of E its embedding c and its target embedding c*, each `(width,)`.
        preserved: For each concept of P its embedding, `(width,)`.
        erase_scale: Weight of each term over E.
        preserve_scale: Weight of each term over P.
        lamb: λ of the term that pulls towards W_old.
    """
    old = old.double()
    left = lamb * old
    right = lamb * torch.eye(old.shape[1], dtype=torch.float64)
    for concept, target in edited:
        value = old @ target.double()
        left = left + erase_scale * torch.outer(value, concept.double())
        right = right + erase_scale * torch.outer(concept.double(), concept.double())
    for concept in preserved:
        value = old @ concept.double()
        left = left + preserve_scale * torch.outer(value, concept.double())
        right = right + preserve_scale * torch.outer(concept.double(), concept.double())
    return left @ torch.linalg.inv(right)
