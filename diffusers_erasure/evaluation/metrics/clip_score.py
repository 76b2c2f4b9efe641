"""CLIP score: how well pictures fit their prompts (Hessel et al., arXiv:2104.08718).

The score of a picture is 100 max(cos, 0) of its CLIP embedding and the prompt's, as torchmetrics has it; the
AdvUnlearn tables give a hundredth of it. The figure is the mean with a bootstrap interval over prompts.
Beside it stands the agreement: the cosine of an erased picture with the base's of the same prompt and seed.

No command computes it; from Python, of pictures `(pictures, 3, height, width)`, uint8:

```python
scorer = ClipScorer.load("openai/clip-vit-base-patch32")
print(scorer.scores(images, prompts).mean())
```
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusers_erasure.errors import EvaluationError
from diffusers_erasure.evaluation.bootstrap import RESAMPLES, Estimate, bootstrap
from diffusers_erasure.evaluation.judges import check_pictures
from diffusers_erasure.evaluation.judges.checkpoint import Checkpoint
from diffusers_erasure.evaluation.judges.clip_zero_shot import load_clip

BATCH_SIZE = 32


@dataclass(frozen=True)
class ClipScorer:
    """A CLIP model that embeds pictures and words.

    Attributes:
        checkpoint: Model, processor and tokenizer.
        name: Its name in reports.
    """

    checkpoint: Checkpoint
    name: str

    @classmethod
    def load(cls, location: str, *, revision: str | None = None, device: str = "cpu") -> ClipScorer:
        """Load a CLIP model from a folder or a Hub id.

        Raises:
            EvaluationError: It cannot be loaded whole, or is no CLIP model.
        """
        return cls(load_clip(location, revision=revision, device=device), f"clip:{location}")

    def embeddings(self, images: Tensor, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Unit embeddings of pictures and of their prompts, each `(pictures, width)`.

        Args:
            images: `(pictures, 3, height, width)`, uint8.
            prompts: One per picture; longer ones are cut off where CLIP's reading ends.
        """
        check_pictures(images)
        if len(images) != len(prompts) or not prompts:
            raise EvaluationError(
                f"{len(images)} pictures came with {len(prompts)} prompts; expected one prompt per picture; "
                "pass the prompts that they were drawn from"
            )
        seen: list[Tensor] = []
        read: list[Tensor] = []
        model = self.checkpoint.model
        for at in range(0, len(prompts), BATCH_SIZE):
            words = self.checkpoint.tokenizer(
                list(prompts[at : at + BATCH_SIZE]), padding=True, truncation=True, return_tensors="pt"
            ).to(model.device)
            pixels = self.checkpoint.pixels(images[at : at + BATCH_SIZE])
            with torch.inference_mode():
                answer = model(pixel_values=pixels, **words)
            seen.append(answer.image_embeds.float().cpu())
            read.append(answer.text_embeds.float().cpu())
        return torch.cat(seen), torch.cat(read)

    def scores(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """The score of each picture, `(pictures,)`, 0 to 100."""
        return clip_score(*self.embeddings(images, prompts))

    def estimate(
        self,
        images: Tensor,
        prompts: Sequence[str],
        *,
        generator: torch.Generator,
        resamples: int = RESAMPLES,
    ) -> Estimate:
        """Mean score with its interval over prompts."""
        return bootstrap(self.scores(images, prompts), prompts, generator=generator, resamples=resamples)

    def agreement(
        self,
        base: Tensor,
        erased: Tensor,
        prompts: Sequence[str],
        *,
        generator: torch.Generator,
        resamples: int = RESAMPLES,
    ) -> Estimate:
        """Mean cosine of the pictures of two pipelines, pair by pair, with its interval over prompts."""
        (first, _), (second, _) = self.embeddings(base, prompts), self.embeddings(erased, prompts)
        cosines = torch.cosine_similarity(first, second, dim=-1)
        return bootstrap(cosines, prompts, generator=generator, resamples=resamples)


def clip_score(images: Tensor, texts: Tensor) -> Tensor:
    """100 max(cos, 0) of embeddings, row by row: `(pictures,)`.

    Args:
        images: `(pictures, width)`, of any length each.
        texts: `(pictures, width)`.
    """
    return 100 * torch.cosine_similarity(images, texts, dim=-1).clamp(min=0)
