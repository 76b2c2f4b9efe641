"""The judges that ship with the embedded pipeline: two for concepts, and one for styles.

They were trained on the artwork that the pipeline was trained on, with a "none" class of mush and noise. What
they confuse is stated in the embedded pipeline's card. The threshold was fixed before any erasure was
measured and is low on purpose: a doubtful picture still counts as showing the concept, which counts against
the erasure.
"""

from __future__ import annotations

import hashlib
from typing import Literal, Protocol

import torch
from torch import Tensor

from diffusers_erasure.embedded.judges import judge_file, load_judge
from diffusers_erasure.evaluation.prompt_sets import JudgeRole

from .base import Judge, Verdicts, to_unit_range
from .registry import judge

THRESHOLD = 0.25
"""Probability from which the best label is named."""
SIZE = (64, 64)
VERSION = "1"
BATCH_SIZE = 64


class Network(Protocol):
    """What is used of a judge network."""

    @property
    def labels(self) -> tuple[str, ...]:
        """What it can name."""

    def probabilities(self, images: Tensor) -> Tensor:
        """Class probabilities of pictures in [0, 1]."""

    def features(self, images: Tensor) -> Tensor:
        """What the last layer sees of pictures in [0, 1]."""


class EmbeddedJudge:
    """One embedded judge network behind the `Judge` protocol.

    Args:
        name: The judge's name in reports.
        network: Its network.
        sha256: Digest of its weights file.
        device: Where the network is.
    """

    version = VERSION
    threshold = THRESHOLD

    def __init__(self, name: str, network: Network, *, sha256: str, device: str = "cpu") -> None:
        self.name = name
        self.sha256 = sha256
        self._network = network
        self._device = device

    @property
    def labels(self) -> tuple[str, ...]:
        """What it can name."""
        return self._network.labels

    def judge(self, images: Tensor) -> Verdicts:
        """Look at pictures, `(pictures, 3, 64, 64)` uint8."""
        pictures = to_unit_range(images, size=SIZE)
        with torch.inference_mode():
            parts = [
                self._network.probabilities(part.to(self._device)).float().cpu()
                for part in torch.split(pictures, BATCH_SIZE)
            ]
        probabilities = torch.cat(parts) if parts else torch.zeros((0, len(self.labels)))
        return Verdicts(self.labels, probabilities, self.threshold)

    def features(self, images: Tensor) -> Tensor:
        """What its last layer sees of pictures `(pictures, 3, height, width)` uint8: `(pictures, width)`."""
        return self._network.features(images.to(self._device).float() / 255)


def _load(which: Literal["concept", "concept-2", "style"], device: str) -> Judge:
    network = load_judge(which, device=device)
    digest = hashlib.sha256(judge_file(which).read_bytes()).hexdigest()
    return EmbeddedJudge(f"embedded-{which}", network, sha256=digest, device=device)


@judge("embedded-concept", family="embedded", role=JudgeRole.CONCEPT)
def load_concept_judge(device: str) -> Judge:
    """Load the judge that names concepts."""
    return _load("concept", device)


@judge("embedded-concept-2", family="embedded", role=JudgeRole.SECOND)
def load_second_concept_judge(device: str) -> Judge:
    """Load the concept judge of another architecture."""
    return _load("concept-2", device)


@judge("embedded-style", family="embedded", role=JudgeRole.STYLE)
def load_style_judge(device: str) -> Judge:
    """Load the judge that names styles."""
    return _load("style", device)
