"""What goes into a pipeline beside the prompt: an initial picture, a mask, text states from elsewhere.

These wrap a stock pipeline so that it is called with prompts and generators like any other, and look up what
belongs to each prompt and seed. So the same measuring code draws them all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any

import torch
from torch import Tensor

States = Callable[[list[str]], tuple[Tensor, Tensor]]
"""From prompts to their text states and those of the unconditional prompt, `(batch, tokens, width)` each."""


def centre_mask(height: int, width: int, share: float) -> Tensor:
    """A mask that is 1 in the centre, `(1, height, width)`, float32.

    Args:
        height: Of the picture.
        width: Of the picture.
        share: Share of each side that is masked.
    """
    mask = torch.zeros(1, height, width)
    top, left = (round(side * (1 - share) / 2) for side in (height, width))
    mask[:, top : height - top, left : width - left] = 1
    return mask


@dataclass
class PictureInput:
    """An image-to-image or inpainting pipeline with a picture for each prompt and seed.

    Attributes:
        pipe: The pipeline; a private one, for its progress bar is switched off.
        pictures: `(3, height, width)` uint8, by prompt and seed.
        strength: How far the picture is noised; 1 keeps nothing of it.
        mask: `(1, height, width)`, 1 where it is to be drawn anew; None without inpainting.
    """

    pipe: Any
    pictures: Mapping[tuple[str, int], Tensor]
    strength: float
    mask: Tensor | None = None
    _progress_bar_config: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def set_progress_bar_config(self, **options: Any) -> None:
        """As pipelines have it, under the name by which it is put back."""
        self._progress_bar_config = options

    def __call__(
        self,
        *,
        prompt: list[str],
        generator: Sequence[torch.Generator],
        num_inference_steps: int,
        **options: Any,
    ) -> Any:
        """Draw one picture per prompt; see diffusers' pipelines for the arguments."""
        keys = zip(prompt, (one.initial_seed() for one in generator), strict=True)
        images = torch.stack([self.pictures[key] for key in keys]).float() / 255
        if self.mask is not None:
            options["mask_image"] = self.mask.expand(len(prompt), *self.mask.shape)
            options["height"], options["width"] = images.shape[2:]
        return self.pipe(
            prompt=prompt,
            image=images,
            strength=self.strength,
            generator=list(generator),
            # With few steps a small strength would leave none of them to be done.
            num_inference_steps=max(num_inference_steps, ceil(1 / self.strength)),
            **options,
        )


@dataclass
class StateInput:
    """A text-to-image pipeline that is given text states in place of prompts.

    Attributes:
        pipe: The pipeline; a private one, for its progress bar is switched off.
        states: Makes the states.
    """

    pipe: Any
    states: States
    _progress_bar_config: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def set_progress_bar_config(self, **options: Any) -> None:
        """As pipelines have it, under the name by which it is put back."""
        self._progress_bar_config = options

    def __call__(self, *, prompt: list[str], **options: Any) -> Any:
        """Draw one picture per prompt; see diffusers' pipelines for the arguments."""
        states, negative = self.states(prompt)
        return self.pipe(prompt_embeds=states, negative_prompt_embeds=negative, **options)
