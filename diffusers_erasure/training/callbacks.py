"""What may watch a training run: progress, sample pictures, measurements, and a stop when it diverges.

A callback is called after every optimizer step and may return numbers, which go to the trackers with the
losses. It cannot disturb the run: all randomness of a step is addressed by its number (`draws`), so what a
callback draws changes nothing.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from diffusers_erasure.errors import TrainingError

from .config import Progress, ProgressCallback
from .losses import TOTAL

TRAINING_PHASE = "train"
"""Name of the phase in which the optimizer steps."""
Pictures = Sequence[Image.Image] | Tensor


@dataclass(frozen=True)
class StepReport:
    """One optimizer step that is done.

    Attributes:
        step: Steps done, this one included.
        total: Steps of the whole run.
        losses: Mean of every loss term over processes and accumulated passes; "loss" was minimised.
        learning_rate: Of this step.
        gradient_norm: Norm of the gradient before clipping.
        seconds: What the step took.
    """

    step: int
    total: int
    losses: Mapping[str, float]
    learning_rate: float
    gradient_norm: float
    seconds: float

    @property
    def numbers(self) -> dict[str, float]:
        """Everything that is worth tracking."""
        return {
            **self.losses,
            "learning_rate": self.learning_rate,
            "gradient_norm": self.gradient_norm,
            "seconds_per_step": self.seconds,
        }


class Callback:
    """Watches a run; override what is needed.

    Attributes:
        everywhere: Whether every process calls it, or only the first.
    """

    everywhere = False

    def on_step(self, report: StepReport) -> Mapping[str, float] | None:
        """Look at a step that is done; what is returned is tracked."""

    def state(self) -> dict[str, Any]:
        """What must be remembered when the run is resumed, as JSON."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up what an earlier run remembered."""


class ReportProgress(Callback):
    """Tells a progress callback how far the run is, with loss terms and seconds per step.

    Args:
        progress: What is called.
        phase: What the run is called there.
    """

    def __init__(self, progress: ProgressCallback, phase: str = TRAINING_PHASE) -> None:
        self.progress, self.phase = progress, phase

    def on_step(self, report: StepReport) -> None:
        """Report the step."""
        shown = {**report.losses, "seconds per step": report.seconds}
        self.progress(Progress(self.phase, report.step, report.total, shown))


class SampleGrid(Callback):
    """Draws pictures every few steps and saves them as one grid, `step-000100.png`.

    Args:
        draw: Draws with the model as it stands; pictures of one size, or `(n, 3, height, width)` uint8.
        folder: Where the grids go.
        every: Steps between them; the last step is always drawn.
        columns: Pictures in a row.
    """

    def __init__(self, draw: Callable[[], Pictures], folder: Path, *, every: int, columns: int = 4) -> None:
        self.draw, self.folder, self.every, self.columns = draw, folder, every, columns

    def on_step(self, report: StepReport) -> None:
        """Draw if it is time."""
        if report.step % self.every and report.step != report.total:
            return
        with torch.no_grad():
            pictures = _as_images(self.draw())
        self.folder.mkdir(parents=True, exist_ok=True)
        _tile(pictures, self.columns).save(self.folder / f"step-{report.step:06d}.png")


def _as_images(pictures: Pictures) -> list[Image.Image]:
    if isinstance(pictures, Tensor):
        return [Image.fromarray(row.permute(1, 2, 0).cpu().numpy()) for row in pictures]
    return list(pictures)


def _tile(pictures: Sequence[Image.Image], columns: int) -> Image.Image:
    """Pictures in rows of `columns`, in the order given."""
    width, height = pictures[0].size
    rows = math.ceil(len(pictures) / columns)
    sheet = Image.new("RGB", (min(columns, len(pictures)) * width, rows * height))
    for number, picture in enumerate(pictures):
        sheet.paste(picture, ((number % columns) * width, (number // columns) * height))
    return sheet


class Measure(Callback):
    """Calls a measurement every few steps and hands its numbers to the trackers.

    Args:
        measure: Measures the model as it stands; names and numbers.
        every: Steps between measurements; the last step is always measured.
    """

    def __init__(self, measure: Callable[[], Mapping[str, float]], *, every: int) -> None:
        self.measure, self.every = measure, every

    def on_step(self, report: StepReport) -> Mapping[str, float] | None:
        """Measure if it is time."""
        if report.step % self.every and report.step != report.total:
            return None
        with torch.no_grad():
            return dict(self.measure())


class StopOnDivergence(Callback):
    """Ends a run whose loss has left its way: its average is a multiple of the lowest average so far.

    A loss that is not finite ends a run anyway, before it reaches the weights.

    Args:
        factor: How many times the lowest average is too much.
        window: Steps that are averaged.
        term: Loss term that is watched.
    """

    everywhere = True

    def __init__(self, factor: float, *, window: int = 50, term: str = TOTAL) -> None:
        self.factor, self.window, self.term = factor, window, term
        self._last: deque[float] = deque(maxlen=window)
        self._lowest = math.inf

    def on_step(self, report: StepReport) -> None:
        """Compare the average with the lowest one.

        Raises:
            TrainingError: It is too high.
        """
        self._last.append(report.losses[self.term])
        if len(self._last) < self.window:
            return
        average = math.fsum(self._last) / self.window
        self._lowest = min(self._lowest, average)
        if average > self.factor * self._lowest:
            raise TrainingError(
                f"training diverges: {self.term} averaged {average:.4g} over the last {self.window} steps "
                f"before step {report.step}, its lowest average was {self._lowest:.4g}; at most "
                f"{self.factor:g} times that was expected; lower learning_rate, or set divergence_factor"
            )

    def state(self) -> dict[str, Any]:
        """The last losses and the lowest average."""
        lowest = self._lowest if math.isfinite(self._lowest) else None
        return {"last": list(self._last), "lowest": lowest}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take them up again."""
        self._last.extend(float(value) for value in state["last"])
        lowest = state["lowest"]
        self._lowest = math.inf if lowest is None else float(lowest)
