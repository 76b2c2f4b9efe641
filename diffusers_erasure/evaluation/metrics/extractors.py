"""Feature extractors: from pictures to vectors whose distribution FID and KID compare.

A distance is only comparable with another by the same extractor, so each has a name and the digest of its
weights. FID as published means Inception's features, which are of use for photographs; whoever has them gives
them as an extractor of their own. The embedded pipeline's pictures are compared by its concept judge's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusers_erasure.embedded.judges import JudgeName, judge_file, load_judge
from diffusers_erasure.errors import EvaluationError
from diffusers_erasure.evaluation.judges import check_pictures
from diffusers_erasure.evaluation.judges.checkpoint import load_checkpoint

BATCH_SIZE = 64


@dataclass(frozen=True)
class Extractor:
    """Something that turns pictures into feature vectors.

    Attributes:
        name: What it is.
        sha256: Digest of its weights.
        function: From pictures `(batch, 3, height, width)` uint8 to features `(batch, width)`.
    """

    name: str
    sha256: str
    function: Callable[[Tensor], Tensor]

    def __call__(self, images: Tensor) -> Tensor:
        """Features `(pictures, width)`, float64, of pictures `(pictures, 3, height, width)`, uint8.

        Raises:
            EvaluationError: These are no pictures, or the features are no finite vectors.
        """
        check_pictures(images)
        if not len(images):
            raise EvaluationError(
                f"{self.name} was given no pictures; expected some to compare; draw them first"
            )
        with torch.inference_mode():
            parts = [self.function(part).detach().double().cpu() for part in torch.split(images, BATCH_SIZE)]
        if any(part.ndim != 2 or not bool(part.isfinite().all()) for part in parts):
            raise EvaluationError(
                f"{self.name} gave features of shape {tuple(parts[0].shape)} or values that are not finite; "
                "expected (pictures, width); pool its maps, or check its weights"
            )
        return torch.cat(parts)


def embedded_extractor(name: JudgeName = "concept", *, device: str = "cpu") -> Extractor:
    """What the last layer of an embedded judge sees: the default for the embedded pipeline's pictures."""
    network = load_judge(name, device=device)
    digest = hashlib.sha256(judge_file(name).read_bytes()).hexdigest()
    return Extractor(
        f"embedded-{name}", digest, lambda images: network.features(images.to(device).float() / 255)
    )


def clip_extractor(location: str, *, revision: str | None = None, device: str = "cpu") -> Extractor:
    """CLIP's picture embeddings, of a model in a folder or on the Hub."""
    from transformers import CLIPModel

    checkpoint = load_checkpoint(CLIPModel, location, revision=revision, device=device)

    def features(images: Tensor) -> Tensor:
        model = checkpoint.model
        seen = model.vision_model(pixel_values=checkpoint.pixels(images)).pooler_output
        projected: Tensor = model.visual_projection(seen)
        return projected

    return Extractor(f"clip:{location}", checkpoint.sha256, features)


def classifier_extractor(location: str, *, revision: str | None = None, device: str = "cpu") -> Extractor:
    """The last hidden states of an image classifier, averaged over places."""
    from transformers import AutoModelForImageClassification

    checkpoint = load_checkpoint(AutoModelForImageClassification, location, revision=revision, device=device)

    def features(images: Tensor) -> Tensor:
        answer = checkpoint.model(pixel_values=checkpoint.pixels(images), output_hidden_states=True)
        last: Tensor = answer.hidden_states[-1]
        return last.mean(dim=(2, 3)) if last.ndim == 4 else last.mean(dim=1)

    return Extractor(f"image-classifier:{location}", checkpoint.sha256, features)
