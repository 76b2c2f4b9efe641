"""A judge whose answer a test decides."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from diffusers_erasure.embedded.vocabulary import CONCEPTS, STYLES
from diffusers_erasure.evaluation.judges import Panel, Verdicts


class ConstantJudge:
    """Names one label for every picture."""

    version, threshold = "test", 0.5

    def __init__(self, name: str, labels: Sequence[str], answer: str) -> None:
        self.name, self.labels, self.answer = name, tuple(labels), answer
        self.sha256 = name * 8

    def judge(self, images: Tensor) -> Verdicts:
        """Say it."""
        index = torch.full((len(images),), self.labels.index(self.answer))
        return Verdicts(self.labels, torch.nn.functional.one_hot(index, len(self.labels)).float(), 0.5)


def constant_panel(answer: str = "church") -> Panel:
    """Judges that see one concept, in ink, wherever they look."""
    labels = (*CONCEPTS, "none")
    return Panel(
        ConstantJudge("concepts", labels, answer),
        style=ConstantJudge("styles", STYLES, "ink"),
        second=ConstantJudge("seconds", labels, answer),
    )
