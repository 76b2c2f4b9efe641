"""CLIP as a judge of whatever can be said: which of several captions fits a picture best (arXiv:2103.00020).

    clip:openai/clip-vit-base-patch32#church,against=house,against=tower,threshold=0.5

The labels are those that count and those that they are held against; each is put into the template ("a photo
of a {}"), and CLIP's probabilities over them are a softmax of its scaled cosines. A prompt file of `evaluate`
tells labels too: everything that its rows ask about competes. The best label must reach `threshold`, and two
words for one thing share what is one thing's, so that neither may: give it one. Where all this is one label,
its one rival is "something else", which is easily beaten: name the things that could be confused, and look
at the confusion matrix before believing a figure.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffusers_erasure.errors import ConfigError, EvaluationError

from .base import Verdicts, check_pictures
from .checkpoint import Checkpoint, load_checkpoint
from .registry import Panel, judge_family
from .request import JudgeRequest

THRESHOLD = 0.5
TEMPLATE = "a photo of a {}"
RIVAL = "something else"
BATCH_SIZE = 32


class ClipJudge:
    """CLIP with a set of captions, behind the `Judge` protocol.

    Args:
        checkpoint: Model, processor and tokenizer.
        name: The judge's name in reports.
        labels: What it can name; at least two.
        template: A caption with `{}` for the label.
        threshold: Probability that the best label must reach.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        name: str,
        labels: tuple[str, ...],
        template: str = TEMPLATE,
        threshold: float = THRESHOLD,
    ) -> None:
        if "{}" not in template or len(set(labels)) != len(labels) or len(labels) < 2:
            raise ConfigError(
                f"CLIP was given the labels {labels} and the template {template!r}; expected two or more "
                "labels that differ and a template with {}; change them"
            )
        self.name = name
        self.version = checkpoint.version
        self.sha256 = checkpoint.sha256
        self.threshold = threshold
        self.labels = labels
        self.captions = tuple(template.format(label) for label in labels)
        self._checkpoint = checkpoint

    def judge(self, images: Tensor) -> Verdicts:
        """Look at pictures, `(pictures, 3, height, width)` uint8 of any size."""
        check_pictures(images)
        words = self._checkpoint.tokenizer(
            list(self.captions), padding=True, truncation=True, return_tensors="pt"
        ).to(self._checkpoint.model.device)
        with torch.inference_mode():
            parts = [
                self._checkpoint.model(pixel_values=self._checkpoint.pixels(part), **words).logits_per_image
                for part in torch.split(images, BATCH_SIZE)
                if len(part)
            ]
        logits = torch.cat(parts).float().cpu() if parts else torch.zeros((0, len(self.labels)))
        return Verdicts(self.labels, logits.softmax(dim=-1), self.threshold)

    def features(self, images: Tensor) -> Tensor:
        """CLIP's embeddings of pictures `(pictures, 3, height, width)` uint8: `(pictures, width)`."""
        return clip_features(self._checkpoint, images)


def clip_features(checkpoint: Checkpoint, images: Tensor) -> Tensor:
    """CLIP's picture embeddings, `(pictures, width)`, as they are compared with those of words.

    Args:
        checkpoint: A CLIP model.
        images: `(pictures, 3, height, width)`, uint8.
    """
    seen = checkpoint.model.vision_model(pixel_values=checkpoint.pixels(images)).pooler_output
    projected: Tensor = checkpoint.model.visual_projection(seen)
    return projected


def load_clip(location: str, *, revision: str | None = None, device: str = "cpu") -> Checkpoint:
    """Load a CLIP model from a folder or a Hub id.

    Raises:
        EvaluationError: It cannot be loaded whole, or is no CLIP model.
    """
    from transformers import AutoModelForZeroShotImageClassification

    found = load_checkpoint(
        AutoModelForZeroShotImageClassification, location, revision=revision, device=device, tokenizer=True
    )
    if found.model.config.model_type != "clip":
        raise EvaluationError(
            f"{location} is of type {found.model.config.model_type!r}; expected 'clip', whose captions "
            "compete in a softmax; name a CLIP model"
        )
    return found


def _rivals(request: JudgeRequest, told: int) -> tuple[str, ...]:
    """What labels are held against that nobody asks about."""
    alone = not request.names or told == 1
    return request.options.get("against", (RIVAL,) if alone else ())


@judge_family("clip")
def load_panel_of_clip(request: JudgeRequest, device: str) -> Panel:
    """Make the panel of `clip:location@revision#label,against=other,threshold=0.5`."""
    request.check(location=True, options=("against", "template", "threshold"))
    told = dict.fromkeys((*request.labels, *request.names))
    if not told:
        raise ConfigError(
            "CLIP was not told what to look for; expected labels behind a #; write "
            f"clip:{request.location}#church,against=house"
        )
    judge = ClipJudge(
        load_clip(request.location, revision=request.revision, device=device),
        name=f"clip:{request.location}",
        labels=(*told, *(rival for rival in _rivals(request, len(told)) if rival not in told)),
        template=request.text("template", TEMPLATE),
        threshold=request.number("threshold", THRESHOLD, low=0, high=1),
    )
    return Panel(judge, asked=request.labels)
