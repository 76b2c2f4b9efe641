"""A fine-tuning on disk, so that one that is interrupted goes on: weights, moments, and where the draws are.

One safetensors file, written whole or not at all. Who names it says what it belongs to; what cannot be read,
or does not fit, is told, and the fine-tuning begins anew.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from diffusers_erasure.durable import whole_file

logger = logging.getLogger(__name__)

DRAWS, STEPS, LOSS = "draws", "steps", "loss_before"


def keep_state(
    path: Path,
    trained: Sequence[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    draws: torch.Generator,
    *,
    steps: int,
    loss_before: float,
) -> None:
    """Write what a fine-tuning is after some steps.

    Args:
        path: The file.
        trained: What is trained, in its order.
        optimizer: With its moments.
        draws: What batches, timesteps and noise are drawn from.
        steps: Steps that are done.
        loss_before: Loss before the first of them.
    """
    tensors = {DRAWS: draws.get_state()}
    for index, weight in enumerate(trained):
        parts = {"weight": weight.detach(), **optimizer.state[weight]}
        tensors |= {f"{index}.{name}": value.cpu().contiguous() for name, value in parts.items()}
    with whole_file(path) as draft:
        save_file(tensors, draft, metadata={STEPS: str(steps), LOSS: loss_before.hex()})


def take_up(
    path: Path,
    trained: Sequence[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    draws: torch.Generator,
    *,
    at_most: int,
) -> tuple[int, float] | None:
    """Put what was kept into a fine-tuning that has not begun.

    Args:
        path: The file.
        trained: See `keep_state`, as what follows.
        optimizer: Without moments yet.
        draws: Set to where it was.
        at_most: Steps beyond which it is of no use, since the model is to be shown there.

    Returns:
        The steps that are done and the loss before them; None, and nothing is changed, if there is no such
        file or it is of no use.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            steps, loss = int(about[STEPS]), float.fromhex(about[LOSS])
            if steps > at_most:
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
        moments = [_moments(tensors, index, weight) for index, weight in enumerate(trained)]
        weights = [tensors[f"{index}.weight"] for index in range(len(trained))]
        place = tensors[DRAWS]
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        logger.warning("the kept fine-tuning %s cannot be used (%s); it begins anew", path, error)
        return None
    with torch.no_grad():
        for weight, kept, state in zip(trained, weights, moments, strict=True):
            weight.copy_(kept)
            optimizer.state[weight].update(state)
    draws.set_state(place)
    return steps, loss


def _moments(tensors: dict[str, Tensor], index: int, weight: nn.Parameter) -> dict[str, Tensor]:
    """AdamW's numbers of one weight; its count of steps stays on the CPU, as AdamW keeps it."""
    start = f"{index}."
    found = {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}
    if found.pop("weight").shape != weight.shape:
        raise ValueError(f"weight {index} has another shape")
    return {name: value.to(weight.device) if value.dim() else value for name, value in found.items()}
