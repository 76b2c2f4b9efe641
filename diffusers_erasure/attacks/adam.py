"""Adam (arXiv:1412.6980) as a function, for search variables of which each row is on its own.

Attacks search for many prompts at once. Their rows begin and end at different times, so every row counts its
own steps; otherwise this is `torch.optim.Adam`, with its L2 decay (`weight_decay` times the variable is added
to the gradient), or `torch.optim.AdamW`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffusers_erasure.diffusion.precision import double

BETAS = (0.9, 0.999)
EPSILON = 1e-8


@dataclass
class AdamState:
    """Running means of a variable `(batch, ...)`.

    Attributes:
        first: Mean of gradients.
        second: Mean of squared gradients.
        steps: Steps of each row, `(batch,)`.
    """

    first: Tensor
    second: Tensor
    steps: Tensor

    @classmethod
    def of(cls, variable: Tensor) -> AdamState:
        """Before the first step."""
        steps = torch.zeros(variable.shape[0], dtype=torch.long, device=variable.device)
        return cls(torch.zeros_like(variable), torch.zeros_like(variable), steps)

    def rows(self, kept: Tensor) -> AdamState:
        """The state of some rows, `(kept,)` indices or bool."""
        return AdamState(self.first[kept], self.second[kept], self.steps[kept])

    def joined(self, other: AdamState) -> AdamState:
        """These rows, then those of another state."""
        return AdamState(
            torch.cat([self.first, other.first]),
            torch.cat([self.second, other.second]),
            torch.cat([self.steps, other.steps]),
        )


def adam_step(
    variable: Tensor,
    gradient: Tensor,
    state: AdamState,
    *,
    learning_rate: float,
    weight_decay: float = 0.0,
    decoupled: bool = False,
) -> Tensor:
    """The variable after one step; the state is updated in place.

    Args:
        variable: `(batch, ...)`.
        gradient: Of the same shape.
        state: Running means.
        learning_rate: Step size.
        weight_decay: L2 decay, added to the gradient.
        decoupled: The decay is AdamW's (arXiv:1711.05101): the variable is shrunk before the step.

    Returns:
        A new tensor of the same shape.
    """
    if decoupled:
        variable = variable * (1 - learning_rate * weight_decay)
    elif weight_decay:
        gradient = gradient + weight_decay * variable
    beta_1, beta_2 = BETAS
    state.steps += 1
    state.first.lerp_(gradient, 1 - beta_1)
    state.second.mul_(beta_2).addcmul_(gradient, gradient, value=1 - beta_2)
    steps = double(state.steps).reshape(-1, *[1] * (variable.ndim - 1))
    correction_1 = (1 - beta_1**steps).to(variable.dtype).to(variable.device)
    correction_2 = (1 - beta_2**steps).sqrt().to(variable.dtype).to(variable.device)
    return variable - learning_rate / correction_1 * state.first / (
        state.second.sqrt() / correction_2 + EPSILON
    )
