"""The gradient of a retain set, for methods that treat it apart from the erasure's.

With e the model in training and e_0 the frozen original, for retained prompts c_r on latents of theirs,

    L_r = | e(z_t | c_r) - e_0(z_t | c_r) |²,   g_r = dL_r / dθ

It costs one pass forward and back of all retained rows in each step, beside the making of their latents, and
one gradient of every trained weight, which is held until the optimizer has stepped.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as processes
from torch import Tensor, nn

from diffusers_erasure.diffusion import BankDraw, NoisePredictor, TextPath

from .draws import StepDraws
from .losses import noise_loss
from .retention import Retention


class RetainGradient:
    """Collects g_r over the passes of a step.

    Args:
        retention: Where retained rows come from.
        pupil: The model in training.
        text: Way through the encoder in training; None where its states stay those of the original.
        parameters: What is trained, by name.
        passes: Backward passes of a step, over which g_r is a mean.
    """

    def __init__(
        self,
        retention: Retention,
        pupil: NoisePredictor,
        text: TextPath | None,
        parameters: Mapping[str, nn.Parameter],
        *,
        passes: int = 1,
    ) -> None:
        self.retention, self.pupil, self.text = retention, pupil, text
        self.parameters, self.passes = parameters, passes
        self._held: dict[str, Tensor] = {}

    def collect(self, draws: StepDraws) -> Tensor:
        """Add the gradient of one pass; L_r of its rows, `()`."""
        found = self.retention.draw(draws)
        with torch.enable_grad():
            predicted = self.pupil(found.latents, found.timesteps, self._states(found))
            loss = noise_loss(predicted, found.target_conditional)
            gradients = torch.autograd.grad(loss, [*self.parameters.values()], allow_unused=True)
        for name, gradient in zip(self.parameters, gradients, strict=True):
            if gradient is None:
                continue
            share = gradient.float().div_(self.passes)
            self._held[name] = self._held[name].add_(share) if name in self._held else share
        return loss.detach()

    def _states(self, found: BankDraw) -> Tensor:
        if self.text is None:
            return self.retention.bank.source.states[found.prompt_index]
        return self.text.states(self.retention.ids[found.prompt_index])

    def share(self) -> None:
        """Take the mean over all processes."""
        if not (processes.is_available() and processes.is_initialized()):
            return
        for name in self.parameters:
            if name in self._held:
                processes.all_reduce(self._held[name])
                self._held[name].div_(processes.get_world_size())

    def of(self, name: str) -> Tensor:
        """g_r of a weight; zeros where the retained rows do not reach it."""
        held = self._held.get(name)
        return torch.zeros_like(self.parameters[name]) if held is None else held

    def clear(self) -> None:
        """Forget the step."""
        self._held.clear()
