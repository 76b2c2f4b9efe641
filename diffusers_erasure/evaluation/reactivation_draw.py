"""The manipulations that need no training, each from an item to pictures of the concept's own name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline
from pydantic import JsonValue
from torch import Tensor

from diffusers_erasure.artifacts.apply import load_erasure
from diffusers_erasure.attacks.reactivation import (
    PictureInput,
    StateInput,
    centre_mask,
    int8_copy,
    stock_pipeline,
)
from diffusers_erasure.errors import EvaluationError
from diffusers_erasure.pipelines.text_path import encode_skipping

from .generate import Drawings, Progress
from .proportion import Proportion
from .reactivation_items import CLIP_SKIP, Item
from .reactivation_stage import Seen, Stage

INPAINT_SHARE = 0.75
"""Share of each side that is masked: little of a thing in the centre is left to be seen around it."""
GREY = 128


@dataclass(frozen=True)
class Outcome:
    """What came of one manipulation.

    Attributes:
        seen: The pictures.
        settings: What they depend on beside the weights.
        note: What a reader must know.
        base_control: The same manipulation of the base.
    """

    seen: Seen
    settings: Mapping[str, JsonValue] = field(default_factory=dict)
    note: str = ""
    base_control: Proportion | None = None


@dataclass(frozen=True)
class Manipulations:
    """Draws under each manipulation; made once for a stage.

    Attributes:
        stage: What is measured, and with what.
        base_seen: The base's pictures of the concept.
        erased_seen: Those of the erasure as it is.
    """

    stage: Stage
    base_seen: Seen
    erased_seen: Seen

    @cached_property
    def _ways(self) -> Mapping[str, Callable[[Item, Progress | None], Outcome]]:
        return {
            "merge": self._merged,
            "int8": self._int8,
            "img2img": self._from_picture,
            "inpainting": self._inpainted,
            "foreign-embeddings": self._foreign,
            "clip-skip": self._skipping,
        }

    def __call__(self, item: Item, progress: Progress | None = None) -> Outcome:
        """Manipulate, draw and count one item.

        Raises:
            EvaluationError: The pipeline has nothing that this could manipulate.
        """
        return self._ways[item.family](item, progress)

    def _counted(self, pipe: Any, progress: Progress | None) -> Seen:
        return self.stage.seen(self.stage.draw(pipe, progress))

    def _merged(self, item: Item, progress: Progress | None) -> Outcome:
        merged = stock_pipeline(self.stage.subject.base)
        load_erasure(merged, self.stage.subject.artifact, scale=1 - item.amount)
        note = "each weight is the mean of base and erasure" if item.amount == 0.5 else ""
        return Outcome(self._counted(merged, progress), {"base_share": item.amount}, note)

    def _int8(self, _item: Item, progress: Progress | None) -> Outcome:
        erased = self.stage.subject.erased
        parts = {name: int8_copy(getattr(erased, name)) for name in ("unet", "text_encoder")}
        note = (
            "linear and convolution weights of UNet and text encoder rounded to nearest, one scale per "
            f"output channel; simulated in {str(erased.unet.dtype).removeprefix('torch.')}"
        )
        return Outcome(self._counted(stock_pipeline(erased, **parts), progress), {"bits": 8}, note)

    def _from_picture(self, item: Item, progress: Progress | None) -> Outcome:
        pipe = stock_pipeline(self.stage.subject.erased, StableDiffusionImg2ImgPipeline)
        pictures = self.stage.by_prompt(self.base_seen.images)
        seen = self._counted(PictureInput(pipe, pictures, item.amount), progress)
        return Outcome(
            seen, {"strength": item.amount}, "begins with the base's picture of the same prompt and seed"
        )

    def _inpainted(self, _item: Item, progress: Progress | None) -> Outcome:
        unet = self.stage.subject.erased.unet
        if unet.config.in_channels != self.stage.subject.erased.vae.config.latent_channels:
            raise EvaluationError(
                f"the UNet takes {unet.config.in_channels} channels, so that a mask would be one of them; "
                "expected a text-to-image model; measure inpainting models by their own pipeline"
            )
        images = self.base_seen.images
        mask = centre_mask(images.shape[2], images.shape[3], INPAINT_SHARE)
        pipe = stock_pipeline(self.stage.subject.erased, StableDiffusionInpaintPipeline)
        given = PictureInput(pipe, self.stage.by_prompt(images), 1.0, mask)
        alone = self._seen_around(images, mask)
        note = (
            f"{100 * INPAINT_SHARE:.0f} % of each side of the base's picture drawn anew; with that grey, "
            f"the judge sees the concept in {alone.k}/{alone.n}"
        )
        return Outcome(self._counted(given, progress), {"masked_share_of_side": INPAINT_SHARE}, note)

    def _seen_around(self, images: Tensor, mask: Tensor) -> Proportion:
        """In how many pictures the judge sees the concept around the mask alone."""
        covered = torch.where(mask.bool(), torch.full_like(images, GREY), images)
        return self.stage.seen(Drawings(covered, ("",) * len(covered))).counts.rate

    def _foreign(self, _item: Item, progress: Progress | None) -> Outcome:
        if "text_encoder" not in self.stage.subject.artifact.edits:
            note = "the text encoder is not edited, so its states are the base's: the rate as it is"
            return Outcome(self.erased_seen, {}, note)
        base, pipe = (stock_pipeline(one) for one in (self.stage.subject.base, self.stage.subject.erased))
        seen = self._counted(StateInput(pipe, lambda prompts: _encoded(base, prompts)), progress)
        return Outcome(seen, {}, "prompt and negative prompt are encoded by the base's text encoder")

    def _skipping(self, _item: Item, progress: Progress | None) -> Outcome:
        encoder = self.stage.subject.erased.text_encoder
        norm = getattr(getattr(encoder, "text_model", encoder), "final_layer_norm", None)
        if norm is None or encoder.config.num_hidden_layers <= CLIP_SKIP:
            raise EvaluationError(
                f"{type(encoder).__name__} has no layer before the last, or no final norm; expected CLIP's "
                "text encoder; clip_skip has no meaning here"
            )
        rates = [
            self._counted(_skipping_pipe(one), progress)
            for one in (self.stage.subject.base, self.stage.subject.erased)
        ]
        note = (
            f"the base itself shows the concept in {rates[0].counts.rate.k}/{rates[0].counts.rate.n} with "
            f"clip_skip {CLIP_SKIP}"
        )
        return Outcome(rates[1], {"clip_skip": CLIP_SKIP}, note, rates[0].counts.rate)


def _skipping_pipe(source: Any) -> StateInput:
    pipe = stock_pipeline(source)

    def states(prompts: list[str]) -> tuple[Tensor, Tensor]:
        _, negative = _encoded(pipe, prompts)
        skipped = encode_skipping(pipe, prompts, negative.device, clip_skip=CLIP_SKIP, lora_scale=None)
        return skipped.to(negative.dtype), negative

    return StateInput(pipe, states)


def _encoded(pipe: Any, prompts: list[str]) -> tuple[Tensor, Tensor]:
    """States of prompts and of the empty negative prompt, as the pipeline makes them."""
    states, negative = pipe.encode_prompt(prompts, pipe.device, 1, do_classifier_free_guidance=True)
    return states, negative
