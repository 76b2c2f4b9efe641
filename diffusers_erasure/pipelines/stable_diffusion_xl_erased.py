"""Erased SDXL: the stock pipeline with the erasure mixin in front.

SDXL tells its UNet of a prompt in two ways (Podell et al., arXiv:2307.01952, section 2.1): the states of both
text encoders, side by side, go to the cross-attention, and a pooled state of the second goes into the time
embedding. Our pipeline holds both to the same rules.
"""

from __future__ import annotations

import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor

from .embeddings import EMBEDDING_ARGUMENTS
from .loader import ErasureLoaderMixin
from .own_embeddings import note_own, skips_erasure, will_be_own
from .registration import PUBLIC_MODULE, register_pipelines
from .text_path import check_clip_skip, check_finite

FAMILY = "stable-diffusion-xl-erased"


class ErasedXLTextPath(ErasureLoaderMixin):
    """The text path that all SDXL tasks share."""

    def encode_prompt(  # noqa: PLR0913, PLR0917 - the stock method's arguments
        self,
        prompt: str | list[str] | None,
        prompt_2: str | list[str] | None = None,
        device: torch.device | None = None,
        num_images_per_prompt: int = 1,
        do_classifier_free_guidance: bool = True,
        negative_prompt: str | list[str] | None = None,
        negative_prompt_2: str | list[str] | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        pooled_prompt_embeds: Tensor | None = None,
        negative_pooled_prompt_embeds: Tensor | None = None,
        lora_scale: float | None = None,
        clip_skip: int | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
        """Encode prompts as the stock pipeline does; what is computed here may be passed to a call later.

        Args:
            prompt: One prompt or a batch.
            prompt_2: What the second encoder reads instead.
            device: Where the states go.
            num_images_per_prompt: Copies of each prompt's states.
            do_classifier_free_guidance: Whether negative states are needed.
            negative_prompt: Prompt or batch to guide away from.
            negative_prompt_2: What the second encoder reads instead.
            prompt_embeds: States in place of `prompt`.
            negative_prompt_embeds: States in place of `negative_prompt`.
            pooled_prompt_embeds: Pooled states that go with them.
            negative_pooled_prompt_embeds: Pooled states that go with the negative ones.
            lora_scale: Strength of a LoRA on the text encoders.
            clip_skip: Layers to leave out besides the last; such states of an erased encoder are not own.

        Returns:
            Prompt states and negative states, each `(batch * num_images_per_prompt, tokens, width of both
            encoders)`, then their pooled states, `(batch * num_images_per_prompt, width of the second)`.
        """
        given = (prompt_embeds, negative_prompt_embeds, pooled_prompt_embeds, negative_pooled_prompt_embeds)
        own = [will_be_own(self, embeddings) for embeddings in given]
        own[0] = own[0] and not skips_erasure(self, clip_skip)
        if clip_skip is not None:
            check_clip_skip(clip_skip, self._fewest_layers() - 1)
        made: tuple[Tensor, Tensor | None, Tensor, Tensor | None] = super().encode_prompt(
            prompt,
            prompt_2,
            device,
            num_images_per_prompt,
            do_classifier_free_guidance,
            negative_prompt,
            negative_prompt_2,
            **dict(zip(EMBEDDING_ARGUMENTS, given, strict=True)),
            lora_scale=lora_scale,
            clip_skip=clip_skip,
        )
        check_finite(made[0], "the states of the prompt")
        check_finite(made[2], "the pooled states of the prompt")
        for embeddings, ours in zip(made, own, strict=True):
            if ours:
                note_own(self, embeddings)
        return made

    def _fewest_layers(self) -> int:
        encoders = (self.text_encoder, self.text_encoder_2)
        return min(int(encoder.config.num_hidden_layers) for encoder in encoders if encoder is not None)


class ErasedStableDiffusionXLPipeline(ErasedXLTextPath, StableDiffusionXLPipeline):
    """`StableDiffusionXLPipeline` that draws only while what must be erased is erased.

    ```python
    pipe = ErasedStableDiffusionXLPipeline.from_pretrained("org/xl-base", erasure="org/church-uce-xl")
    ```

    Erasures in closed form edit what the UNet's cross-attention hears. The pooled state of `text_encoder_2`
    reaches the UNet past it and is as it was: what it still tells of the concept has to be measured.
    """


ErasedStableDiffusionXLPipeline.__module__ = PUBLIC_MODULE
register_pipelines(FAMILY, {"text2image": ErasedStableDiffusionXLPipeline})
