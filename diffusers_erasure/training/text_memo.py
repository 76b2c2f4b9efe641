"""Keys and values of the same text, computed once for all steps of a sampling run.

A UNet that samples reads the same text states at every step, and applies the same matrices to them. As long
as its weights stay, what they gave the first time is what they give, to the bit. On the embedded pipeline
that is a tenth of a pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from diffusers_erasure.diffusion.cross_attention import text_projections
from diffusers_erasure.errors import ConfigError


class _SameText:
    """The text of the last pass, so that all projections of a pass compare it once."""

    def __init__(self) -> None:
        self.last: Tensor | None = None
        self.turn = 0

    def turn_of(self, states: Tensor) -> int:
        """A number that stays as long as the text does."""
        last = self.last
        if last is None or last is not states:
            if last is None or last.shape != states.shape or not torch.equal(last, states):
                self.turn += 1
            self.last = states
        return self.turn


@contextmanager
def remembered_text(unet: Any) -> Iterator[None]:
    """Let a UNet's key and value projections remember what they made of the last text.

    Inside, weights must stay and no gradient may be taken. Nothing is remembered where a UNet's projections
    are not found, as in one with fused attention.

    Args:
        unet: The UNet; as it was afterwards.
    """
    try:
        modules = [unet.get_submodule(one.key.removesuffix(".weight")) for one in text_projections(unet)]
    except (AttributeError, ConfigError):
        modules = []
    same = _SameText()
    before = {module: module.__dict__.get("forward") for module in modules}
    for module in modules:
        module.forward = _remembering(module.forward, same)
    try:
        yield
    finally:
        for module, forward in before.items():
            _put_back(module, forward)


def _remembering(forward: Callable[..., Tensor], same: _SameText) -> Callable[..., Tensor]:
    kept: dict[int, Tensor] = {}

    def remembering(states: Tensor, *others: Any, **named: Any) -> Tensor:
        turn = same.turn_of(states)
        if turn not in kept:
            kept.clear()
            kept[turn] = forward(states, *others, **named)
        return kept[turn]

    return remembering


def _put_back(module: nn.Module, forward: Any) -> None:
    if forward is None:
        del module.forward
    else:
        module.forward = forward
