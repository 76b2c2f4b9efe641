"""Pictures of the model as it stands, drawn during training and saved as grids beside the checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from diffusers import DiffusionPipeline
from PIL import Image

from diffusers_erasure.diffusion import evaluating
from diffusers_erasure.embedded import EMBEDDED_GUIDANCE_SCALE
from diffusers_erasure.prompts import World

from .callbacks import Callback, SampleGrid
from .settings import GradientTrainingConfig
from .student import Student, stored_as

_STEPS = 25
_GUIDANCE: Mapping[World, float] = MappingProxyType({"general": 7.5, "embedded": EMBEDDED_GUIDANCE_SCALE})


def validation_watchers(
    pipe: DiffusionPipeline, student: Student, config: GradientTrainingConfig, *, world: World
) -> list[Callback]:
    """The callback that draws the validation prompts, several pictures and one row each; none without them.

    Grids go to `samples` in the run's folder.

    Args:
        pipe: The base pipeline.
        student: What takes a component's place in it.
        config: Names the prompts, how many pictures of each, and how often.
        world: What the pipeline knows.
    """
    if not config.validation_prompt or config.run_folder is None:
        return []
    each = config.num_validation_images
    prompts = [prompt for prompt in config.validation_prompt for _ in range(each)]
    return [
        SampleGrid(
            lambda: draw_pictures(pipe, student, prompts, world=world, seed=config.seed),
            config.run_folder / "samples",
            every=config.validation_steps,
            columns=each,
        )
    ]


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
    for name in ("text_encoder", "vae"):  # a UNet of 16 bits takes no states of 32
        parts[name] = stored_as(parts[name], parts["unet"].dtype)
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
