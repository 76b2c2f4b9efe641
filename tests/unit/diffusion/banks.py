"""Small banks for tests: their settings, prompts, and what they are compared with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from diffusers_erasure.diffusion import BankSettings, DiffusionComponents, TextPath
from tests.reference import ddim as reference

STEPS = 5
PROMPTS = ["dog", "a cat"]
LEVELS = reference.alphas_cumprod(0.00085, 0.012, 1000)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def settings(**values: Any) -> BankSettings:
    return BankSettings(steps=STEPS, **values)


def pool(**values: Any) -> BankSettings:
    return settings(mode="pool", trajectories_per_prompt=2, batch_size=3, **values)


def states(components: DiffusionComponents) -> tuple[Tensor, Tensor]:
    path = TextPath(components)
    with torch.no_grad():
        return path.encode(PROMPTS), path.encode("")


def same(first: Any, second: Any) -> bool:
    """Whether two draws are equal bit for bit."""
    return all(
        torch.equal(getattr(first, name), getattr(second, name))
        for name in ("latents", "timesteps", "target_conditional", "target_unconditional", "prompt_index")
    )
