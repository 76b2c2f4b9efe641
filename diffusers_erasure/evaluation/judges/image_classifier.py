"""Any image classifier of `transformers` as a judge.

    image-classifier:microsoft/resnet-50#church                     objects, as UnlearnDiffAtk judges them
    image-classifier:./wikiart-vit#vincent-van-gogh,top=3           styles, within the three most probable

Options: `top` (a label counts within so many most probable ones; 1), `threshold` (and must reach this
probability; 0, as in UnlearnDiffAtk, arXiv:2310.11868). Labels are those of the model's config; "church"
finds "church, church building".
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from diffusers_erasure.errors import EvaluationError

from .base import Verdicts, check_pictures, find_labels
from .checkpoint import Checkpoint, load_checkpoint
from .registry import Panel, judge_family
from .request import JudgeRequest

THRESHOLD = 0.0
BATCH_SIZE = 32


class ImageClassifierJudge:
    """A classifier behind the `Judge` protocol.

    Args:
        checkpoint: Model and processor.
        name: The judge's name in reports.
        threshold: Probability that a label must reach.
        top: A label must be among so many most probable ones.
    """

    def __init__(
        self, checkpoint: Checkpoint, *, name: str, threshold: float = THRESHOLD, top: int = 1
    ) -> None:
        self.name = name
        self.version = checkpoint.version
        self.sha256 = checkpoint.sha256
        self.threshold = threshold
        self.top = top
        self.labels = _labels(checkpoint.model.config, name)
        self._checkpoint = checkpoint

    def judge(self, images: Tensor) -> Verdicts:
        """Look at pictures, `(pictures, 3, height, width)` uint8 of any size."""
        check_pictures(images)
        with torch.inference_mode():
            parts = [
                self._checkpoint.model(pixel_values=self._checkpoint.pixels(part)).logits.float().softmax(-1)
                for part in torch.split(images, BATCH_SIZE)
                if len(part)
            ]
        probabilities = torch.cat(parts).cpu() if parts else torch.zeros((0, len(self.labels)))
        return Verdicts(self.labels, probabilities, self.threshold, top=self.top)

    def features(self, images: Tensor) -> Tensor:
        """Its last hidden states of pictures `(pictures, 3, height, width)` uint8: `(pictures, width)`."""
        return classifier_features(self._checkpoint, images)


def classifier_features(checkpoint: Checkpoint, images: Tensor) -> Tensor:
    """The last hidden states of an image classifier, averaged over places: `(pictures, width)`.

    Args:
        checkpoint: The classifier.
        images: `(pictures, 3, height, width)`, uint8.
    """
    answer = checkpoint.model(pixel_values=checkpoint.pixels(images), output_hidden_states=True)
    last: Tensor = answer.hidden_states[-1]
    return last.mean(dim=(2, 3)) if last.ndim == 4 else last.mean(dim=1)


def _labels(config: Any, name: str) -> tuple[str, ...]:
    table = {int(index): str(label) for index, label in config.id2label.items()}
    labels = tuple(table[index] for index in sorted(table))
    if sorted(table) != list(range(len(table))) or len(labels) < 2 or len(set(labels)) != len(labels):
        raise EvaluationError(
            f"{name} has the labels {labels[:8]}; expected two or more that differ, numbered from 0; correct "
            "id2label in its config.json"
        )
    if config.problem_type == "multi_label_classification":
        raise EvaluationError(
            f"{name} gives each label a probability of its own (problem_type={config.problem_type!r}); "
            "expected a classifier that names one; use another model"
        )
    return labels


def load_image_classifier(
    location: str,
    *,
    revision: str | None = None,
    threshold: float = THRESHOLD,
    top: int = 1,
    device: str = "cpu",
) -> ImageClassifierJudge:
    """Load a classifier from a folder or a Hub id.

    Raises:
        EvaluationError: It cannot be loaded whole, or its labels cannot be used.
    """
    from transformers import AutoModelForImageClassification

    checkpoint = load_checkpoint(AutoModelForImageClassification, location, revision=revision, device=device)
    return ImageClassifierJudge(checkpoint, name=f"image-classifier:{location}", threshold=threshold, top=top)


@judge_family("image-classifier")
def load_panel_of_classifier(request: JudgeRequest, device: str) -> Panel:
    """Make the panel of `image-classifier:location@revision#label,top=1,threshold=0`."""
    request.check(location=True, options=("top", "threshold"))
    judge = load_image_classifier(
        request.location,
        revision=request.revision,
        threshold=request.number("threshold", THRESHOLD, low=0, high=1),
        top=int(request.number("top", 1, low=1, high=100)),
        device=device,
    )
    return Panel(judge, asked=find_labels(request.labels, judge.labels))
