"""Erased Stable Diffusion 1.x and 2.x: the stock pipelines with the erasure mixin in front."""

from __future__ import annotations

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from .loader import ErasureLoaderMixin
from .own_embeddings import note_own, skips_erasure, will_be_own
from .registration import PUBLIC_MODULE, register_pipelines
from .text_path import check_finite, encode_skipping

FAMILY = "stable-diffusion-erased"


class ErasedTextPath(ErasureLoaderMixin):
    """The text path that all SD 1.x and 2.x tasks share."""

    def encode_prompt(  # noqa: PLR0913, PLR0917 - the stock method's arguments
        self,
        prompt: str | list[str] | None,
        device: torch.device,
        num_images_per_prompt: int,
        do_classifier_free_guidance: bool,
        negative_prompt: str | list[str] | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        lora_scale: float | None = None,
        clip_skip: int | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Encode prompts as the stock pipeline does; what is computed here may be passed to a call later.

        `clip_skip` works (in stock diffusers 0.42 it raises with transformers 5.6 and later). Where an
        erasure lives in the text encoder, the states that it gives do not count as this pipeline's own.

        Args:
            prompt: One prompt or a batch.
            device: Where to compute.
            num_images_per_prompt: Copies of each prompt's states.
            do_classifier_free_guidance: Whether negative states are needed.
            negative_prompt: Prompt or batch to guide away from.
            prompt_embeds: States in place of `prompt`.
            negative_prompt_embeds: States in place of `negative_prompt`.
            lora_scale: Strength of a LoRA on the text encoder.
            clip_skip: Layers to leave out at the end; the negative prompt is encoded in full, as in stock.

        Returns:
            Prompt states and negative states, each `(batch * num_images_per_prompt, tokens, width)`.
        """
        own = will_be_own(self, prompt_embeds) and not skips_erasure(self, clip_skip)
        own_negative = will_be_own(self, negative_prompt_embeds)
        if clip_skip is not None and prompt_embeds is None and prompt is not None:
            prompt_embeds = encode_skipping(self, prompt, device, clip_skip=clip_skip, lora_scale=lora_scale)
        states, negative = super().encode_prompt(
            prompt,
            device,
            num_images_per_prompt,
            do_classifier_free_guidance,
            negative_prompt,
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
            lora_scale=lora_scale,
        )
        check_finite(states, "the states of the prompt")
        if own:
            note_own(self, states)
        if own_negative:
            note_own(self, negative)
        return states, negative


class ErasedStableDiffusionPipeline(ErasedTextPath, StableDiffusionPipeline):
    """`StableDiffusionPipeline` that draws only while what must be erased is erased.

    ```python
    pipe = ErasedStableDiffusionPipeline.from_pretrained("org/base", erasure="org/church-uce")
    pipe = ErasedStableDiffusionPipeline.from_pretrained("org/church-uce")  # the artifact names its base
    ```
    """


ErasedStableDiffusionPipeline.__module__ = PUBLIC_MODULE
register_pipelines(FAMILY, {"text2image": ErasedStableDiffusionPipeline})
