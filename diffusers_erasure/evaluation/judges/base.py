"""What a judge is, and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from diffusers_erasure.errors import EvaluationError

NOTHING = "none"
"""What a judge says when it recognises nothing."""


@dataclass(frozen=True)
class Verdicts:
    """What a judge sees in each picture.

    Attributes:
        labels: What the judge can name.
        probabilities: `(pictures, labels)`, each row sums to 1.
        threshold: Probability that the best label must reach to be named.
    """

    labels: tuple[str, ...]
    probabilities: Tensor
    threshold: float

    @property
    def names(self) -> tuple[str, ...]:
        """The label named per picture: the most probable one, or "none" if that is below the threshold."""
        best, index = self.probabilities.max(dim=1)
        return tuple(
            self.labels[i] if p >= self.threshold else NOTHING
            for p, i in zip(best.tolist(), index.tolist(), strict=True)
        )

    def shows(self, labels: Sequence[tuple[str, ...]]) -> tuple[bool, ...]:
        """Whether each picture shows one of the labels that are asked about it; one tuple per picture."""
        unknown = sorted({label for asked in labels for label in asked} - set(self.labels))
        if unknown:
            raise EvaluationError(
                f"the judge cannot name {', '.join(map(repr, unknown))}; it knows {', '.join(self.labels)}; "
                "ask about one of these or use another judge"
            )
        return tuple(name in asked for name, asked in zip(self.names, labels, strict=True))


class Judge(Protocol):
    """Names what pictures show. The threshold is fixed before anything is measured."""

    @property
    def name(self) -> str:
        """Which judge this is."""

    @property
    def version(self) -> str:
        """Its version."""

    @property
    def sha256(self) -> str:
        """Digest of its weights."""

    @property
    def threshold(self) -> float:
        """Probability from which a label is named."""

    @property
    def labels(self) -> tuple[str, ...]:
        """What it can name."""

    def judge(self, images: Tensor) -> Verdicts:
        """Look at pictures, `(pictures, 3, height, width)` uint8."""


def to_unit_range(images: Tensor, *, size: tuple[int, int]) -> Tensor:
    """Pictures as floats in [0, 1]; refuse those of another size than the judge was trained on."""
    if images.dtype != torch.uint8 or images.ndim != 4 or tuple(images.shape[2:]) != size:
        raise EvaluationError(
            f"the judge was given {images.dtype} pictures of shape {tuple(images.shape)}; it was trained on "
            f"uint8 pictures of {size[0]}x{size[1]} pixels; choose a judge for this pipeline's pictures "
            "with --judge"
        )
    return images.float() / 255
