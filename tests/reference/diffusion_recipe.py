"""The recipe's UNet training, literally: one process, no checkpoints, every constant written out.

Weights of the noise levels as in Hang et al., arXiv:2303.09556 (min-SNR-5), raised where noise prevails. It
shares the caption grammar with the package, and nothing else.
"""

from __future__ import annotations

import math
import random
from typing import Any

import torch
from torch import Tensor

CAPTIONS, EMPTY = 20, 0.10


def literal_training(
    unet: Any, latents: Tensor, scenes: Any, tokenizer: Any, text_encoder: Any, *, rate: float, seed: int
) -> dict[str, Tensor]:
    """Averaged weights after two steps from the weights that the UNet has, in a schedule of two steps.

    Args:
        unet: Trained in place.
        latents: Scaled latents `(count, 4, height, width)`.
        scenes: What each shows; `scene.caption(rng)` draws a caption.
        tokenizer: Of the captions.
        text_encoder: Kept as it is.
        rate: Peak of the learning rate; the first step warms up to it, the second begins the cosine there.
        seed: Of everything drawn.
    """
    optimizer = torch.optim.AdamW(unet.parameters(), lr=rate, weight_decay=0.01, betas=(0.9, 0.99))
    average = {name: value.detach().clone() for name, value in unet.state_dict().items()}
    levels = _levels()
    for index in range(2):
        generator = torch.Generator().manual_seed((seed * 1_000_003 + index) * 64)
        chosen = torch.randint(len(scenes), (CAPTIONS,), generator=generator).tolist()
        rng = random.Random(int(torch.randint(2**31, (1,), generator=generator)))
        captions = ["" if rng.random() < EMPTY else scenes[row].caption(rng) for row in chosen]
        timesteps = torch.randint(1000, (CAPTIONS,), generator=generator)
        noise = torch.randn((CAPTIONS, *latents.shape[1:]), generator=generator)
        alpha = levels[timesteps].reshape(-1, 1, 1, 1)
        noisy = alpha.sqrt() * latents[chosen] + (1 - alpha).sqrt() * noise
        ids = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
        with torch.no_grad():
            states = text_encoder(ids).last_hidden_state
        unet.train()
        with torch.autocast("cpu", torch.bfloat16):
            predicted = unet(noisy, timesteps, states).sample
        errors = (predicted.float() - noise).square().mean(dim=(1, 2, 3))
        ratio = [float(one / (1 - one)) for one in levels[timesteps]]
        weights = torch.tensor([min(12.0, (min(5.0, one) + 0.2) / one) for one in ratio])
        optimizer.zero_grad()
        (errors * weights).mean().backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        kept = min(0.5, (1 + index) / (10 + index))
        for name, value in unet.state_dict().items():
            average[name] = kept * average[name] + (1 - kept) * value.detach()
    return average


def _levels() -> Tensor:
    """Products of 1 - beta, whose square roots are equally spaced."""
    first, last = math.sqrt(0.00085), math.sqrt(0.012)
    roots = torch.linspace(first, last, 1000)
    return torch.cumprod(1 - roots**2, dim=0)
