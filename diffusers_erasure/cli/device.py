"""Where a command computes: where it is told, or on the machine's accelerator, as `train` does."""

from __future__ import annotations

from typing import Annotated

from diffusers_erasure.errors import ConfigError

from .flags import otherwise

Device = Annotated[str, otherwise("the machine's accelerator, or cpu")]
"""The flag that says where to compute; empty leaves it to the machine."""


def compute_device(asked: str) -> str:
    """The device to compute on, as torch names it.

    Args:
        asked: `cuda`, `cuda:1`, `mps`, `cpu`, ...; empty for the accelerator, or the CPU where there is none.

    Raises:
        ConfigError: This machine, or this build of torch, has no such device.
    """
    import torch

    there = torch.accelerator.current_accelerator(check_available=True)
    if not asked:
        return "cpu" if there is None else there.type
    try:
        torch.zeros((), device=asked).item()  # that of `meta` holds no value
    except (AssertionError, RuntimeError) as error:  # a build without CUDA raises the former
        known = "cpu" if there is None else f"cpu or {there.type}"
        why = str(error).partition("\n")[0]
        raise ConfigError(
            f"--device {asked} cannot be computed on: {why}; expected {known}, as this machine and this "
            "build of torch have it; leave it out to take the fastest"
        ) from error
    return asked
