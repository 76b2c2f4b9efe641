"""AEGIS (arXiv:2602.06771) on given draws, as its algorithm says it: one sample, one tensor at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Predict = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Noise for latents, timestep and text states."""


def signed_steps(
    original: Predict,
    model: Predict,
    with_token: Callable[[Tensor], Tensor],
    concept: Tensor,
    tokens: tuple[Tensor, Tensor],
    where: tuple[Tensor, Tensor],
    beta: float,
) -> tuple[Tensor, Tensor]:
    """One step of both soft tokens, c' and c*.

    Args:
        original: The frozen model.
        model: The model in training.
        with_token: Text states of the prompt with a soft token in front.
        concept: Text states of the plain prompt.
        tokens: c' and c* before.
        where: z and t.
        beta: β.
    """
    with torch.no_grad():
        reference = original(*where, concept)
        now = model(*where, concept)
    target, attack = (token.clone().requires_grad_(True) for token in tokens)
    said = original(*where, with_token(target))
    (((said - now) ** 2).mean() + ((said - reference) ** 2).mean()).backward()
    said = model(*where, with_token(attack))
    ((said - reference) ** 2).mean().backward()
    assert target.grad is not None
    assert attack.grad is not None
    return tokens[0] - beta * target.grad.sign(), tokens[1] - beta * attack.grad.sign()


def erasing_loss(
    original: Predict,
    model: Predict,
    target: Tensor,
    attack: Tensor,
    empty: Tensor,
    where: tuple[Tensor, Tensor],
    eta: float,
) -> Tensor:
    """L_e of one sample.

    Args:
        original: The frozen model.
        model: The model in training.
        target: Text states of the erasure target.
        attack: Text states of the adversarial prompt.
        empty: Text states of the empty prompt.
        where: z and t.
        eta: η.
    """
    with torch.no_grad():
        without = original(*where, empty)
        wanted = without - eta * (original(*where, target) - without)
    return ((model(*where, attack) - wanted) ** 2).mean()


def rectified(
    erase: Tensor,
    weight: Tensor,
    original: Tensor,
    omega: float,
    projected_before: Tensor | None,
    mu: float,
    largest: float,
) -> tuple[Tensor, float, Tensor | None]:
    """The gradient of one tensor after rectification, ω, and the projection.

    Args:
        erase: g_e.
        weight: θ.
        original: θ0.
        omega: ω before.
        projected_before: p of the iteration before.
        mu: μ.
        largest: ω_max.
    """
    pull = weight - original
    if not pull.any():
        return erase, omega, None
    share = (erase * pull).sum() / (pull * pull).sum()
    projected = share * pull
    if projected_before is not None:
        omega = min(max(omega - mu * float(torch.sign((erase * projected_before).sum())), 0.0), largest)
    if (erase * pull).sum() < 0:
        return erase - omega * projected, omega, projected
    return erase, omega, projected
