"""What a judge is, and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Protocol, runtime_checkable

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
        probabilities: `(pictures, labels)`; each row sums to 1, unless the labels do not exclude each other.
        threshold: Probability from which a label is named.
        top: A label must be among so many most probable ones to be named.
        exclusive: Whether a picture shows one label. A detector's labels do not exclude each other: each is
            named on its own, and `top` does not matter.
    """

    labels: tuple[str, ...]
    probabilities: Tensor
    threshold: float
    top: int = 1
    exclusive: bool = True

    @property
    def names(self) -> tuple[str, ...]:
        """The label named per picture: the most probable one, or "none" if that is below the threshold."""
        best, index = self.probabilities.max(dim=1)
        return tuple(
            self.labels[i] if p >= self.threshold else NOTHING
            for p, i in zip(best.tolist(), index.tolist(), strict=True)
        )

    @property
    def named(self) -> Tensor:
        """Which labels are named, `(pictures, labels)` bool."""
        enough = self.probabilities >= self.threshold
        if not self.exclusive or not len(self.probabilities):
            return enough
        best = self.probabilities.topk(min(self.top, len(self.labels)), dim=1).indices
        return enough & torch.zeros_like(enough).scatter(1, best, value=True)

    def shows(self, labels: Sequence[tuple[str, ...]]) -> tuple[bool, ...]:
        """Whether each picture shows one of the labels that are asked about it; one tuple per picture."""
        found = {asked: find_labels(asked, self.labels) for asked in dict.fromkeys(labels)}
        columns = {asked: [self.labels.index(label) for label in known] for asked, known in found.items()}
        return tuple(
            bool(row[columns[asked]].any() or (NOTHING in asked and not row.any()))
            for row, asked in zip(self.named, labels, strict=True)
        )


def find_labels(asked: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """A judge's own labels for words that are asked about.

    A word is a label as it is written, or but for case, blanks and underscores, or one of the words of a
    label that lists several ("church" is "church, church building").

    Raises:
        EvaluationError: The judge has no such label, or several.
    """
    return tuple(dict.fromkeys(_find_label(word, known) for word in asked))


def _find_label(word: str, known: Sequence[str]) -> str:
    if word in known:
        return word
    plain = _plain(word)
    found = [label for label in known if _plain(label) == plain] or [
        label for label in known if plain in {_plain(part) for part in label.split(",")}
    ]
    if len(found) == 1:
        return found[0]
    if found:
        raise EvaluationError(
            f"{word!r} could be the labels {', '.join(map(repr, found))}; expected one; write it in full"
        )
    near = get_close_matches(word, known, n=5, cutoff=0.5) or list(known[:8])
    more = "" if len(near) == len(known) else f" and others ({len(known)} in all)"
    raise EvaluationError(
        f"the judge cannot name {word!r}; it knows {', '.join(near)}{more}; ask about one of these or use "
        "another judge"
    )


def _plain(label: str) -> str:
    return " ".join(label.replace("_", " ").split()).casefold()


@runtime_checkable
class SeesFeatures(Protocol):
    """What a judge may offer besides its answers: sets of pictures are then compared by what it sees."""

    def features(self, images: Tensor) -> Tensor:
        """Features `(pictures, width)` of pictures `(pictures, 3, height, width)` uint8."""


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


def check_pictures(images: Tensor) -> None:
    """Refuse what is no batch of pictures."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise EvaluationError(
            f"the judge was given {images.dtype} of shape {tuple(images.shape)}; expected uint8 pictures of "
            "shape (pictures, 3, height, width); convert them, as `Artist.draw` does"
        )


def to_unit_range(images: Tensor, *, size: tuple[int, int]) -> Tensor:
    """Pictures as floats in [0, 1]; refuse those of another size than the judge was trained on."""
    if images.dtype != torch.uint8 or images.ndim != 4 or tuple(images.shape[2:]) != size:
        raise EvaluationError(
            f"the judge was given {images.dtype} pictures of shape {tuple(images.shape)}; it was trained on "
            f"uint8 pictures of {size[0]}x{size[1]} pixels; choose a judge for this pipeline's pictures "
            "with --judge"
        )
    return images.float() / 255
