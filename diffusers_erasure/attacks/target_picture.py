"""The picture that an attack aims at: what the un-erased model draws for the same prompt and seed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .base import AttackedPrompt, AttackTarget


def target_pictures(items: Sequence[AttackedPrompt], base: AttackTarget) -> Tensor:
    """One picture per item, `(batch, 3, height, width)` uint8, drawn by the base."""
    states = base.encode([item.aim for item in items])
    seeds = [item.seed for item in items]
    step = base.picture_batch
    return torch.cat(
        [
            base.draw(states[at : at + step], base.unconditional, seeds[at : at + step])
            for at in range(0, len(items), step)
        ]
    )


def encode_pictures(pictures: Tensor, target: AttackTarget) -> Tensor:
    """Latents of pictures: the mean of the autoencoder's posterior, scaled; `(batch, channels, h, w)`.

    Args:
        pictures: `(batch, 3, height, width)`, uint8.
        target: Whose autoencoder.
    """
    vae = target.components.vae
    weight = next(vae.parameters())
    pixels = (pictures.float() / 127.5 - 1).to(weight.device, weight.dtype)
    with torch.no_grad():
        mean: Tensor = torch.cat(
            [vae.encode(part).latent_dist.mode() for part in pixels.split(target.picture_batch)]
        )
    shift = getattr(vae.config, "shift_factor", None) or 0.0
    return (mean.float() - shift) * float(vae.config.scaling_factor)


def target_latents(
    items: Sequence[AttackedPrompt], target: AttackTarget, base: AttackTarget
) -> tuple[Tensor, ...]:
    """Latents of the pictures that items aim at, `(channels, height, width)` each, on the CPU."""
    latents = encode_pictures(target_pictures(items, base), target).cpu()
    return tuple(latents.unbind(0))
