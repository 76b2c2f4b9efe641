"""Pictures of the model as it stands, drawn during training and saved as grids beside the checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from diffusers import DiffusionPipeline
from PIL import Image

from diffusers_erasure.diffusion import evaluating
from diffusers_erasure.embedded import EMBEDDED_GUIDANCE_SCALE
from diffusers_erasure.prompts import World

from .callbacks import Callback, SampleGrid
from .student import Student

_STEPS = 25
_GUIDANCE: Mapping[World, float] = MappingProxyType({"general": 7.5, "embedded": EMBEDDED_GUIDANCE_SCALE})


def validation_grid(
    draw: Callable[[Sequence[str]], list[Image.Image]],
    prompts: Sequence[str],
    folder: Path,
    *,
    every: int,
    each: int,
) -> Callback:
    """A callback that draws each prompt several times, one row a prompt.

    Args:
        draw: Draws a list of prompts with the model as it stands.
        prompts: What to draw.
        folder: Of the run; the pictures go to `samples` in it.
        every: Steps between grids.
        each: Pictures of each prompt.
    """
    repeated = [prompt for prompt in prompts for _ in range(each)]
    return SampleGrid(lambda: draw(repeated), folder / "samples", every=every, columns=each)


def draw_pictures(
    pipe: DiffusionPipeline, student: Student, prompts: Sequence[str], *, world: World, seed: int
) -> list[Image.Image]:
    """Draw with the student in its component's place; the pipeline stays as it was.

    Args:
        pipe: The base pipeline.
        student: What takes a component's place.
        prompts: One picture each.
        world: What the pipeline knows; its guidance scale follows from it.
        seed: The picture with the number n starts from seed + n.
    """
    parts: dict[str, Any] = {**pipe.components, student.component: student.module}
    sibling = type(pipe)(**parts, requires_safety_checker=False)
    sibling.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed + number) for number in range(len(prompts))]
    with evaluating(student.module):
        drawn = sibling(
            list(prompts),
            generator=generators,
            num_inference_steps=_STEPS,
            guidance_scale=_GUIDANCE[world],
        )
    pictures: list[Image.Image] = drawn.images
    return pictures
