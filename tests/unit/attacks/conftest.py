"""Attack targets on the tiny pipeline, with judges whose answers the tests choose."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from diffusers_erasure.attacks import AttackTarget


@pytest.fixture
def make_target(tiny_pipe: Any) -> Callable[..., AttackTarget]:
    """Builder of targets: `make_target()` never shows the concept, `make_target(judge=...)` as you say."""
    import torch

    from diffusers_erasure.attacks import AttackTarget

    def build(
        judge: Callable[[torch.Tensor], torch.Tensor] | None = None, pipe: Any = None, **settings: Any
    ) -> AttackTarget:
        never = judge or (lambda images: torch.zeros(len(images), dtype=torch.bool))
        chosen = {"steps": 2, "guidance_scale": 4.0, **settings}
        return AttackTarget.of(tiny_pipe if pipe is None else pipe, never, **chosen)

    return build
