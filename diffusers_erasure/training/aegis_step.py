"""How AEGIS makes a step: gradients rectified, tensor by tensor, before the optimizer's step or after it.

g_r, the pull to what must stay, is θ - θ0 in float32 whatever the passes compute in, made for one weight at a
time; or, as the paper's ablation without that surrogate, the gradient of a retain set (`retain_gradient`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from .aegis_settings import AEGISConfig
from .rectification import Gradients, Rectified, Rectifier
from .retain_gradient import RetainGradient
from .student import Student


class AEGISStep:
    """Steps of one run.

    Args:
        student: What is trained, with the original's weights.
        settings: Of AEGIS.
        retained: The retain set's gradient, where it stands for the weights.

    Attributes:
        rectifier: What gradients go through.
    """

    def __init__(
        self, student: Student, settings: AEGISConfig, retained: RetainGradient | None = None
    ) -> None:
        self.student, self.settings, self.retained = student, settings, retained
        self.rectifier = Rectifier(settings.rectification)

    @torch.no_grad()
    def make(self, step: Callable[[], object]) -> Mapping[str, float]:
        """Make a step.

        Args:
            step: The optimizer's.

        Returns:
            "distance" to the original before the step; what the rectification was about, where there was one.
        """
        mode, trained = self.settings.retain_mode, self._with_gradient()
        if self.retained is not None:
            self.retained.share()
        if mode == "projection" and self.settings.rectify == "after":
            before = {name: parameter.detach().clone() for name, parameter in trained.items()}
            step()
            found = self.rectifier(self._steps(trained, before))
            told = self._told(found, before)
        elif mode == "projection":
            found = self.rectifier(
                Gradients.held({name: _gradient(one) for name, one in trained.items()}, self._pull)
            )
            told = self._told(found, {})
            step()
        else:
            told = {"distance": self._distance(self.student.parameters)}
            if mode == "penalty":
                for name, parameter in trained.items():
                    _gradient(parameter).add_(self._pull(name), alpha=self.settings.retain_weight)
            step()
        if self.retained is not None:
            self.retained.clear()
        return told

    def _steps(self, trained: Mapping[str, nn.Parameter], before: Mapping[str, Tensor]) -> Gradients:
        """The optimizer's steps, which are done already, as what is rectified."""

        def add(name: str, correction: Tensor) -> None:
            trained[name].sub_(correction)

        def pull(name: str) -> Tensor:
            return self._pull(name) if self.retained is not None else self._way(name, before[name])

        return Gradients([*trained], lambda name: before[name] - trained[name], pull, add)

    def _pull(self, name: str) -> Tensor:
        """g_r of a weight, float32."""
        if self.retained is not None:
            return self.retained.of(name)
        return self._way(name, self.student.parameters[name].detach())

    def _way(self, name: str, weight: Tensor) -> Tensor:
        """θ - θ0 of a weight; a θ0 of fewer bits is subtracted as it is stored, without a copy of it."""
        return torch.sub(weight.float(), self.student.teacher[name])

    def _told(self, found: Rectified, before: Mapping[str, Tensor]) -> dict[str, float]:
        parameters = {**self.student.parameters, **before}
        if self.retained is None:  # |θ - θ0| of what was rectified is known
            rest = {n: one for n, one in parameters.items() if self.student.parameters[n].grad is None}
            distance = (found.pull**2 + self._distance(rest) ** 2) ** 0.5
        else:
            distance = self._distance(parameters)
        rectified = {"cosine": found.cosine, "omega": found.omega, "conflicts": found.conflicts}
        return {"distance": distance, **rectified}

    def _distance(self, weights: Mapping[str, Tensor]) -> float:
        squares = [self._way(name, one.detach()).square_().sum() for name, one in weights.items()]
        return float(torch.stack(squares).sum().sqrt()) if squares else 0.0

    def _with_gradient(self) -> dict[str, nn.Parameter]:
        return {name: one for name, one in self.student.parameters.items() if one.grad is not None}


def _gradient(parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:
        raise RuntimeError("a gradient is asked for where there is none")
    return parameter.grad
