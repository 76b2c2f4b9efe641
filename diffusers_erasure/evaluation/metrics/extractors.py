"""Feature extractors: from pictures to vectors whose distribution FID and KID compare.

A distance is only comparable with another by the same extractor, so each has a name and the digest of its
weights. FID as published means Inception's features, which are of use for photographs; whoever has them gives
them as an extractor of their own. Unless one is given, pictures are compared by what the concept judge sees.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from diffusers_erasure.embedded.judges import JudgeName, judge_file, load_judge
from diffusers_erasure.errors import ConfigError, EvaluationError
from diffusers_erasure.evaluation.judges import Judge, SeesFeatures, check_pictures, parse_judge
from diffusers_erasure.evaluation.judges.checkpoint import load_checkpoint
from diffusers_erasure.evaluation.judges.clip_zero_shot import clip_features
from diffusers_erasure.evaluation.judges.image_classifier import classifier_features

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
            parts = [self.function(part).detach().cpu().double() for part in torch.split(images, BATCH_SIZE)]
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
    return Extractor(f"clip:{location}", checkpoint.sha256, partial(clip_features, checkpoint))


def classifier_extractor(location: str, *, revision: str | None = None, device: str = "cpu") -> Extractor:
    """The last hidden states of an image classifier, averaged over places."""
    from transformers import AutoModelForImageClassification

    checkpoint = load_checkpoint(AutoModelForImageClassification, location, revision=revision, device=device)
    name = f"image-classifier:{location}"
    return Extractor(name, checkpoint.sha256, partial(classifier_features, checkpoint))


def judge_extractor(judge: Judge) -> Extractor | None:
    """What a judge sees just before it answers; None if it does not offer that."""
    if not isinstance(judge, SeesFeatures):
        return None
    return Extractor(judge.name, judge.sha256, judge.features)


def load_extractor(text: str, *, device: str = "cpu") -> Extractor:
    """An extractor that was asked for in one word: `embedded`, `clip:location`, `image-classifier:location`.

    Args:
        text: The kind, and the folder or Hub id of its weights, as `--judge` takes them; labels have no
            meaning here.
        device: Where the network is to be.

    Raises:
        ConfigError: There is no such kind, or it was given what it cannot use.
        EvaluationError: The model cannot be loaded whole.
    """
    request = parse_judge(text)
    if request.family == "embedded":
        request.check(location=False)
        return embedded_extractor(device=device)
    kinds = {"clip": clip_extractor, "image-classifier": classifier_extractor}
    if request.family not in kinds:
        raise ConfigError(
            f"there is no extractor of features named {request.family!r}; expected embedded, "
            f"{', '.join(f'{kind}:FOLDER_OR_ID' for kind in kinds)}; name one of them"
        )
    request.check(location=True)
    return kinds[request.family](request.location, revision=request.revision, device=device)
