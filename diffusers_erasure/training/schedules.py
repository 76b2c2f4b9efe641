"""How the learning rate goes over the steps: pure functions of the step, so there is no state to resume.

The names and shapes are those of `diffusers.optimization.get_scheduler`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

ScheduleName = Literal[
    "constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial"
]
ENDLESS: tuple[ScheduleName, ...] = ("constant", "constant_with_warmup")
"""Schedules that do not depend on the number of steps, so that a run may be prolonged."""
_POLYNOMIAL_END = 1e-7  # lr_end of the polynomial schedule in diffusers and transformers


@dataclass(frozen=True)
class LearningRate:
    """Learning rate as a function of the step.

    Attributes:
        peak: The rate that the schedule is a share of.
        schedule: Its shape.
        steps: Steps of the whole run.
        warmup: Steps of linear rise from 0; `constant` has none.
        cycles: Restarts of `cosine_with_restarts`.
        power: Power of `polynomial`.
    """

    peak: float
    schedule: ScheduleName = "constant"
    steps: int = 1000
    warmup: int = 0
    cycles: int = 1
    power: float = 1.0

    def at(self, step: int) -> float:
        """Rate of the step with this index, counted from 0."""
        if self.schedule != "constant" and step < self.warmup:
            return self.peak * step / max(1, self.warmup)
        if self.schedule in ENDLESS:
            return self.peak
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self._after_warmup(done)

    def _after_warmup(self, done: float) -> float:
        """Rate at a share `done` of the steps after the warm-up."""
        if self.schedule == "linear":
            return self.peak * max(0.0, 1 - done)
        if self.schedule == "cosine":
            return self.peak * max(0.0, 0.5 * (1 + math.cos(math.pi * done)))
        if self.schedule == "polynomial":
            end = min(_POLYNOMIAL_END, self.peak)
            return end if done > 1 else (self.peak - end) * (1 - done) ** self.power + end
        return 0.0 if done >= 1 else self.peak * 0.5 * (1 + math.cos(math.pi * ((self.cycles * done) % 1.0)))
