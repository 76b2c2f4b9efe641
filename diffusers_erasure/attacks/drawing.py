"""From text states to pictures, by a stock pipeline on the components that are attacked.

Erased pipelines refuse embeddings that they did not make, and rightly so; an attack must not be stopped by
that, or it would measure the refusal and not the erasure. The pictures of a typed text are those that the
pipeline itself draws: each has its own generator, so its noise depends on its seed alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from diffusers_erasure.diffusion.components import DiffusionComponents
from diffusers_erasure.errors import NotFiniteError


@dataclass(frozen=True)
class Drawing:
    """Draws pictures of text states; made by `Drawing.on`.

    Attributes:
        pipe: A stock pipeline of its own on the shared components, with a scheduler of its own.
        steps: Sampling steps.
        guidance_scale: Guidance scale.
    """

    pipe: StableDiffusionPipeline
    steps: int
    guidance_scale: float

    @classmethod
    def on(cls, components: DiffusionComponents, *, steps: int, guidance_scale: float) -> Drawing:
        """Draw with these components; the scheduler is copied, since sampling changes it."""
        pipe = StableDiffusionPipeline(
            vae=components.vae,
            text_encoder=components.text_encoder,
            tokenizer=components.tokenizer,
            unet=components.unet,
            scheduler=deepcopy(components.scheduler),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipe.set_progress_bar_config(disable=True)
        return cls(pipe, steps, guidance_scale)

    @property
    def queries_per_picture(self) -> int:
        """UNet sample evaluations of one picture: steps of the scheduler, twice with guidance."""
        scheduler = deepcopy(self.pipe.scheduler)
        scheduler.set_timesteps(self.steps)
        return len(scheduler.timesteps) * (2 if self.guidance_scale > 1 else 1)

    def __call__(self, states: Tensor, unconditional: Tensor, seeds: Sequence[int]) -> Tensor:
        """Draw one picture per row of text states.

        Args:
            states: `(batch, tokens, width)`.
            unconditional: `(tokens, width)`, what guidance leads away from.
            seeds: One per picture.

        Returns:
            Pictures `(batch, 3, height, width)`, uint8, on the CPU.

        Raises:
            NotFiniteError: A picture is not finite: a broken model, which is not an erased one.
        """
        with torch.no_grad():  # what a pipeline moves to its device here must stay trainable
            images = self.pipe(
                prompt_embeds=states.detach(),
                negative_prompt_embeds=unconditional.detach().expand_as(states),
                generator=[torch.Generator().manual_seed(seed) for seed in seeds],
                num_inference_steps=self.steps,
                guidance_scale=self.guidance_scale,
                output_type="pt",
            ).images
        images = images.float().cpu()
        broken = int((~images.isfinite().flatten(1).all(dim=1)).sum())
        if broken:
            raise NotFiniteError(
                f"{broken} of {len(seeds)} pictures are not finite; expected numbers; check the pipeline's "
                "weights and dtype"
            )
        pictures: Tensor = (images.clamp(0, 1) * 255).round().to(torch.uint8)
        return pictures
