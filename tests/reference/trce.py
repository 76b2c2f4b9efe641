"""TRCE (arXiv:2503.07389) as its text says it, and as its code does it: slow, one number at a time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def mapped_weight(
    old: Tensor,
    mapped: Sequence[tuple[Tensor, Tensor, float]],
    kept: Sequence[Tensor],
    *,
    pairs: int,
    eta: float,
    ridge: float = 0.0,
) -> Tensor:
    """Stage 1 for one layer: W' of the objective with means over pairs and over kept states.

    Args:
        old: W, `(out, width)`.
        mapped: Malicious state, safe state, and weight of each.
        kept: States that stay.
        pairs: Pairs of prompts that the mapped states are of.
        eta: η.
        ridge: λ, relative to the mean of the diagonal.
    """
    old = old.double()
    width = old.shape[1]
    left, right = torch.zeros(len(old), width).double(), torch.zeros(width, width).double()
    for malicious, safe, weight in mapped:
        left += weight / pairs * torch.outer(old @ safe.double(), malicious.double())
        right += weight / pairs * torch.outer(malicious.double(), malicious.double())
    for state in kept:
        left += eta / len(kept) * torch.outer(old @ state.double(), state.double())
        right += eta / len(kept) * torch.outer(state.double(), state.double())
    pull = ridge * right.diagonal().mean()
    edited: Tensor = (left + pull * old) @ torch.linalg.inv(right + pull * torch.eye(width).double())
    return edited


def released_weight(
    old: Tensor,
    mapped: Sequence[tuple[Tensor, Tensor]],
    kept: Sequence[Tensor],
    *,
    preserve_scale: float,
    ridge: float,
) -> Tensor:
    """The same as the released code computes it: a mean over pairs, and η squared over 30,000.

    Args:
        old: W, `(out, width)`.
        mapped: Malicious state and safe state of each pair.
        kept: States that stay.
        preserve_scale: η, before it is squared.
        ridge: λ, relative to the mean of the diagonal; the released run has 0, with which random text
            encoders have a singular matrix.
    """
    old = old.double()
    width = old.shape[1]
    left, right = torch.zeros(len(old), width).double(), torch.zeros(width, width).double()
    for malicious, safe in mapped:
        left += torch.outer(old @ safe.double(), malicious.double())
        right += torch.outer(malicious.double(), malicious.double())
    left, right = left / len(mapped), right / len(mapped)
    for state in kept:
        left += preserve_scale**2 / 3e4 * torch.outer(old @ state.double(), state.double())
        right += preserve_scale**2 / 3e4 * torch.outer(state.double(), state.double())
    pull = ridge * right.diagonal().mean()
    edited: Tensor = (left + pull * old) @ torch.linalg.inv(right + pull * torch.eye(width).double())
    return edited


def hinge(predicted: Tensor, safe: Tensor, unsafe: Tensor, delta: float) -> float:
    """max(0, |e - f_s|² - |e - f_m|² + δ) of one sample, squares averaged over all entries."""
    total = 0.0
    for e, s, m in zip(
        predicted.flatten().tolist(), safe.flatten().tolist(), unsafe.flatten().tolist(), strict=True
    ):
        total += (e - s) ** 2 - (e - m) ** 2
    return max(0.0, total / predicted.numel() + delta)


def direction(concept: Tensor, empty: Tensor, g: float) -> Tensor:
    """The amplified direction as the released code writes it: e_c + g (e_c - e_0)."""
    return concept + g * (concept - empty)
