"""Distributions over a vocabulary as search variables: projection, sampling, gradients of one-hot choices.

UnlearnDiffAtk (arXiv:2310.11868) relaxes each free token to a point `u` of the probability simplex over the
vocabulary. At every step a token is drawn from `u`; the network sees that token's embedding (one-hot times
embedding matrix), and the gradient is passed on to `u` as if it had been seen itself (straight through), cut
to [-1, 1]. After each step of the optimizer `u` is projected back onto the simplex.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffusers_erasure.diffusion.precision import double
from diffusers_erasure.errors import ConfigError, NotFiniteError

GRADIENT_LIMIT = 1.0
"""Straight-through gradients are cut to this (hardtanh in the authors' code, `methods` section 5.2)."""


def project_to_simplex(points: Tensor, allowed: Tensor | None = None) -> Tensor:
    """The nearest point of the probability simplex, row by row: `max(x - τ, 0)`, τ such that it sums to 1.

    τ is found by Newton's method on the sum, which is exact after finitely many steps: τ only grows, and each
    step drops the entries that it has made negative (Michelot 1986; the same result as bisection).

    Args:
        points: `(..., vocabulary)`.
        allowed: `(vocabulary,)` bool: entries that may be above 0; all unless given.

    Returns:
        `(..., vocabulary)`: no entry below 0, each row sums to 1.

    Raises:
        ConfigError: Nothing is allowed.
        NotFiniteError: A point is not finite.
    """
    if not bool(torch.isfinite(points).all()):
        raise NotFiniteError(
            "a point to project onto the simplex is not finite; expected numbers; lower the learning rate"
        )
    if allowed is not None:
        if not bool(allowed.any()):
            raise ConfigError("0 tokens are allowed; expected at least 1; allow more of the vocabulary")
        points = points.masked_fill(~allowed, float("-inf"))
    active = torch.isfinite(points)
    points = points - points.amax(dim=-1, keepdim=True)  # changes nothing but rounding
    while True:
        count = active.sum(dim=-1, keepdim=True)
        total = torch.where(active, points, 0.0).sum(dim=-1, keepdim=True)
        threshold = (total - 1) / count
        kept = active & (points > threshold)
        if torch.equal(kept, active):
            break
        active = kept
    return torch.where(active, points - threshold, 0.0).clamp_min(0)


def uniform(rows: tuple[int, ...], allowed: Tensor) -> Tensor:
    """The middle of the simplex, `(*rows, vocabulary)`: all allowed tokens equally likely."""
    middle = allowed.float() / allowed.sum()
    return middle.expand(*rows, -1).clone()


def choose(distribution: Tensor, draws: Tensor) -> Tensor:
    """The token that each row draws: the first whose cumulated probability exceeds its uniform number.

    A token of probability 0 is never drawn.

    Args:
        distribution: `(..., vocabulary)`, on the simplex.
        draws: `(...)`, uniform in [0, 1).

    Returns:
        Token ids, `(...)`.
    """
    cumulated = double(distribution).cumsum(dim=-1)
    wanted = (double(draws) * cumulated[..., -1]).unsqueeze(-1)
    return torch.searchsorted(cumulated, wanted, right=True).squeeze(-1).to(distribution.device)


def straight_through(gradient: Tensor, embedding_matrix: Tensor) -> Tensor:
    """Gradient to the distributions, from the gradient to the embeddings of the drawn tokens.

    With `e = h E` for the one-hot `h`, the gradient to `h` is `g E^T`; straight through, `u` gets the same.

    Args:
        gradient: To the embeddings, `(..., width)`.
        embedding_matrix: E, `(vocabulary, width)`.

    Returns:
        `(..., vocabulary)`, cut to [-1, 1].
    """
    full = gradient.float() @ embedding_matrix.detach().float().T
    return full.clamp(-GRADIENT_LIMIT, GRADIENT_LIMIT)
