"""Judges and pipelines whose answers a test decides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from diffusers_erasure.embedded.vocabulary import CONCEPTS, STYLES
from diffusers_erasure.evaluation.generate import Artist, Sampling
from diffusers_erasure.evaluation.judges import Panel, Verdicts

NOTHING = "none"


class ColourJudge:
    """Names what a picture's colour stands for: label number i is red level i."""

    version = "test"
    sha256 = "0" * 64
    threshold = 0.5

    def __init__(self, name: str, labels: Sequence[str], *, wrong: float = 0.0) -> None:
        self.name = name
        self.labels = (*labels, NOTHING)
        self.wrong = wrong

    def judge(self, images: Tensor) -> Verdicts:
        """Read the label from the upper left pixel."""
        index = images[:, 0, 0, 0].long().clamp(max=len(self.labels) - 1)
        if self.wrong:
            index[: int(self.wrong * len(index))] = len(self.labels) - 1
        return Verdicts(self.labels, torch.nn.functional.one_hot(index, len(self.labels)).float(), 0.5)


def painted(label_index: int, *, seed: int = 0) -> Tensor:
    """A whole picture (a disc) that `ColourJudge` reads as label number `label_index`; floats in [0, 1]."""
    across = torch.linspace(-1, 1, 64)
    disc = (across[:, None] ** 2 + across[None, :] ** 2 < 0.5).float()
    image = torch.stack([disc, 1 - disc, disc * (seed % 7) / 7])
    image[0, 0, 0] = label_index / 255
    return image


class PaintingPipe:
    """Draws what `answer(prompt)` says; None is a picture that is not finite."""

    def __init__(self, answer: Callable[[str], str | None], labels: Sequence[str]) -> None:
        self.answer, self.labels = answer, (*labels, NOTHING)
        self._progress_bar_config: dict[str, bool] = {}

    def set_progress_bar_config(self, **arguments: bool) -> None:
        """As diffusers does."""
        self._progress_bar_config = arguments

    def __call__(self, prompt: list[str], generator: list[torch.Generator], **_: Any) -> SimpleNamespace:
        """Paint one picture per prompt."""
        return SimpleNamespace(
            images=torch.stack(
                [self._paint(text, g.initial_seed()) for text, g in zip(prompt, generator, strict=True)]
            )
        )

    def _paint(self, prompt: str, seed: int) -> Tensor:
        label = self.answer(prompt)
        if label is None:
            return torch.full((3, 64, 64), float("nan"))
        return torch.rand(3, 64, 64) if label == "noise" else painted(self.labels.index(label), seed=seed)


@pytest.fixture
def panel() -> Panel:
    """Judges that read a picture's label from its corner."""
    return make_panel()


def make_panel(*, wrong: float = 0.0, style: bool = True) -> Panel:
    """Such judges, of which the second one is wrong about a share of the pictures."""
    return Panel(
        concept=ColourJudge("corner", tuple(CONCEPTS)),
        style=ColourJudge("corner-style", STYLES) if style else None,
        second=ColourJudge("corner-2", tuple(CONCEPTS), wrong=wrong),
    )


@pytest.fixture
def panel_of() -> Callable[..., Panel]:
    """Builder of panels: `panel_of(wrong=0.5)`, `panel_of(style=False)`."""
    return make_panel


@pytest.fixture
def artist() -> Callable[..., Artist]:
    """Builder of pipelines that draw what `answer(prompt)` says, ready to be measured."""

    def build(answer: Callable[[str], str | None], labels: Sequence[str] = tuple(CONCEPTS)) -> Artist:
        return Artist(PaintingPipe(answer, labels), Sampling(1, 1.0), batch_size=4)

    return build
