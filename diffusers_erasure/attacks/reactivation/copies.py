"""Copies that may be manipulated: modules with weights of their own, and stock pipelines on them.

The copy knows nothing of the erasure that it came from: it is no erased module any more, and must not pass
for one.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from diffusers import StableDiffusionPipeline
from torch import nn

from diffusers_erasure.artifacts.copying import RECORD_NAME, edited_copy
from diffusers_erasure.artifacts.tensors import canonical_name, unwrapped

_PARTS = ("vae", "text_encoder", "tokenizer", "unet")


def private_copy(module: nn.Module) -> nn.Module:
    """The module with weights that it shares with nobody, and without the record of its erasure.

    Args:
        module: Text encoder or UNet; not changed.

    Raises:
        ConfigError: Its weights are quantised.
    """
    own = {
        canonical_name(name): weight.detach().clone() for name, weight in unwrapped(module).named_parameters()
    }
    copy = edited_copy(unwrapped(module), own)
    vars(copy).pop(RECORD_NAME, None)
    return copy


def stock_pipeline(pipe: Any, kind: Any = StableDiffusionPipeline, **parts: Any) -> Any:
    """A stock pipeline on the components of another, some of them exchanged; it has a scheduler of its own.

    Ours refuses what manipulates an erasure, and rightly so; here it is to be measured.

    Args:
        pipe: Pipeline of the Stable Diffusion 1.x or 2.x shape; not changed.
        kind: Its class: text to image, image to image or inpainting.
        parts: Components that take the place of the pipeline's own.
    """
    shared = {name: getattr(pipe, name) for name in _PARTS}
    made = kind(
        **{**shared, **parts},
        scheduler=deepcopy(pipe.scheduler),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    made.set_progress_bar_config(disable=True)
    return made
