"""float64 where the device has it, and the CPU's where it does not (Apple's GPUs, some of Intel's)."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor


def double(tensor: Tensor) -> Tensor:
    """A float64 copy of a tensor, on its own device or, if that knows no float64, on the CPU.

    Args:
        tensor: Of any shape and real dtype.
    """
    return tensor.to(float64_device(tensor.device)).to(torch.float64)  # never float64 on the way


@cache
def float64_device(device: torch.device) -> torch.device:
    """Where the float64 copies of a device's tensors lie: on it, or on the CPU."""
    try:
        torch.zeros((), dtype=torch.float64, device=device)
    except (RuntimeError, TypeError):  # devices do not agree on what to raise
        return torch.device("cpu")
    return device


def widest(device: torch.device) -> torch.dtype:
    """The most exact real dtype that a device computes in: float64 or float32."""
    return torch.float64 if float64_device(device) == device else torch.float32
