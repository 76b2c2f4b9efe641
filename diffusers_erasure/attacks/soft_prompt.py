"""The soft prompt attack: free token embeddings that make an erased model predict the concept's noise again.

AdvUnlearn (arXiv:2405.15234, section 4) trains against it, and here it also measures: with δ = k free token
embeddings placed in the concept prompt c_e,

    L_atk(δ) = | ε_θ(z_t | c') - ε_o(z_t | c_e) |²        c' = [δ ; c_e]

falls in K steps over δ, with z_t from the original model's own sampling of c_e. Two rules of descent are
published: Adam ("pgd" in the authors' code, though nothing is projected) and signed steps (fast AT, K = 1);
the first step of both is the same, α times the sign.

`soft_prompt_attack` is the attack as a function, for training and for evaluation alike. Every step takes
gradients of its own at a draw of its own, and what is returned has made the last step, unless `Descent` says
otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from diffusers_erasure.diffusion.noise import NoisePredictor
from diffusers_erasure.diffusion.parameters import frozen
from diffusers_erasure.diffusion.soft_prompt import Placement, SoftPrompt, ordinary_tokens
from diffusers_erasure.diffusion.text_path import TextPath
from diffusers_erasure.errors import ConfigError

from .adam import AdamState, adam_step
from .searching import gradient_to

StepRule = Literal["adam", "sign"]


class NoiseDraw(Protocol):
    """What one step looks at; a draw of the trajectory bank is one."""

    @property
    def latents(self) -> Tensor:
        """z_t, `(rows, channels, height, width)`."""

    @property
    def timesteps(self) -> Tensor:
        """t, `(rows,)`."""

    @property
    def target_conditional(self) -> Tensor:
        """ε_o(z_t | c_e), as `latents`."""


@dataclass(frozen=True)
class Descent:
    """How the search goes down; the defaults are AdvUnlearn's (section 5 of the paper).

    Attributes:
        steps: K.
        learning_rate: α.
        rule: How a gradient becomes a step: Adam, or α times its sign (fast AT).
        sum_gradients: Let each step see the sum of all gradients so far, as the authors' code does, which
            never clears them.
        drop_last_step: Give back what the last but one step made, as the authors' code does; one step then
            gives back the start.
    """

    steps: int = 30
    learning_rate: float = 1e-3
    rule: StepRule = "adam"
    sum_gradients: bool = False
    drop_last_step: bool = False


RowLoss = Callable[[Tensor, NoiseDraw], Tensor]
"""From predicted noise `(rows, ...)` and the draw to one loss per row, `(rows,)`."""


@dataclass(frozen=True)
class SoftPromptFound:
    """What the attack found.

    Attributes:
        delta: Free token embeddings that were found, `(prompts, k, width)`, detached.
        losses: `(steps, prompts)`, each before its step.
        first_gradient: Largest entry of the first gradient per prompt, `(prompts,)`; 0 is a sign of masking.
    """

    delta: Tensor
    losses: Tensor
    first_gradient: Tensor


def noise_distance(predicted: Tensor, draw: NoiseDraw) -> Tensor:
    """Mean squared distance to the original model's noise, per row (AdvUnlearn's L_atk)."""
    target = draw.target_conditional.to(predicted.device, torch.float32)
    return (predicted - target).square().flatten(1).mean(dim=1)


def random_embeddings(text: TextPath, prompts: int, count: int, generator: torch.Generator) -> Tensor:
    """Embeddings of uniformly random ordinary tokens, `(prompts, count, width)`: the random start δ_0."""
    ordinary = ordinary_tokens(text.tokenizer, text.embedding_matrix.shape[0])
    drawn = ordinary[torch.randint(len(ordinary), (prompts, count), generator=generator)]
    return text.token_embeddings(drawn).detach().float().clone()


def soft_prompt_attack(
    prompts: Sequence[SoftPrompt],
    text: TextPath,
    predictor: NoisePredictor,
    draw: Callable[[int], NoiseDraw],
    *,
    delta: Tensor,
    descent: Descent,
    loss: RowLoss = noise_distance,
    after_step: Callable[[int, Tensor], None] | None = None,
) -> SoftPromptFound:
    """Search for free token embeddings, for several prompts at once.

    Neither the encoder nor the UNet gets a gradient, and both are left as they were.

    Args:
        prompts: Prompts with the same number of free tokens.
        text: The text path under attack (while training: the student's).
        predictor: The UNet under attack.
        draw: From the step's number to latents, timesteps and targets; the same number of rows for every
            prompt, those of the first prompt first.
        delta: Where the search starts, `(prompts, k, width)`: `random_embeddings`, or the last ones.
        descent: Number and size of the steps.
        loss: What falls.
        after_step: Told the number of steps done and δ after them.

    Raises:
        ConfigError: The shapes do not fit together, or there is no step.
        NotFiniteError: A loss is not finite.
    """
    _check(prompts, delta, descent.steps)
    current = delta.detach().float().to(text.device).clone()
    batch = PlacedPrompts.of(prompts, text)
    state = AdamState.of(current)
    losses = []
    first, summed = torch.zeros(len(prompts)), torch.zeros_like(current)
    with frozen(text.encoder, predictor.unet), torch.enable_grad():
        for step in range(descent.steps):
            variable = current.clone().requires_grad_(True)
            drawn = draw(step)
            rows = batch.states(text, variable).repeat_interleave(_rows_per_prompt(drawn, prompts), dim=0)
            predicted = predictor(drawn.latents, drawn.timesteps, rows)
            per_prompt = loss(predicted, drawn).reshape(len(prompts), -1).mean(dim=1)
            gradient = gradient_to(variable, per_prompt, predictor.dtype)
            losses.append(per_prompt.detach().cpu())
            if step == 0:
                first = gradient.abs().flatten(1).amax(dim=1).cpu()
            if descent.sum_gradients:
                gradient = summed = _summed(summed, gradient, descent.rule)
            if descent.drop_last_step and step + 1 == descent.steps:
                break
            current = _moved(current, gradient, state, descent)
            if after_step is not None:
                after_step(step + 1, current)
    return SoftPromptFound(current, torch.stack(losses), first)


def _moved(current: Tensor, gradient: Tensor, state: AdamState, descent: Descent) -> Tensor:
    """One step down."""
    if descent.rule == "adam":
        return adam_step(current, gradient, state, learning_rate=descent.learning_rate)
    return current - descent.learning_rate * gradient.sign()


def _summed(before: Tensor, gradient: Tensor, rule: StepRule) -> Tensor:
    """What the authors' code holds as the gradient; its signed rule writes the sign into the sum itself."""
    total = before + gradient
    return total.sign() if rule == "sign" else total


@dataclass(frozen=True)
class PlacedPrompts:
    """Some prompts with as many free tokens each, as one batch.

    Attributes:
        ids: `(batch, tokens)`, stand-ins at the free places.
        positions: Of the free tokens, `(batch, k)`.
        added: Free embeddings are added to what stands there (placement "add").
    """

    ids: Tensor
    positions: Tensor
    added: bool

    @classmethod
    def of(cls, prompts: Sequence[SoftPrompt], text: TextPath) -> PlacedPrompts:
        """Put prompts together."""
        return cls(
            torch.stack([prompt.ids for prompt in prompts]).to(text.device),
            torch.tensor([prompt.positions for prompt in prompts], device=text.device),
            any(prompt.placement is Placement.ADD for prompt in prompts),
        )

    def states(self, text: TextPath, delta: Tensor) -> Tensor:
        """Text states `(batch, tokens, width)` of the prompts with free embeddings `(batch, k, width)`."""
        embeddings = text.token_embeddings(self.ids).detach()
        rows = torch.arange(len(self.ids), device=embeddings.device).unsqueeze(1)
        free = delta.to(embeddings)
        return text.states(
            self.ids, embeddings.index_put((rows, self.positions), free, accumulate=self.added)
        )

    def filled(self, tokens: Tensor) -> Tensor:
        """Ids with tokens `(batch, k)` at the free places."""
        return self.ids.scatter(1, self.positions, tokens.to(self.ids.device))


def _check(prompts: Sequence[SoftPrompt], delta: Tensor, steps: int) -> None:
    counts = {prompt.count for prompt in prompts}
    kinds = {prompt.placement for prompt in prompts}
    if steps < 1 or len(counts) != 1 or len(kinds) != 1:
        raise ConfigError(
            f"{steps} steps over prompts with {sorted(counts)} free tokens ({', '.join(sorted(kinds))}); "
            "expected at least 1 step, and one number and placement for all; attack prompts of different "
            "layouts one after the other"
        )
    if delta.ndim != 3 or delta.shape[:2] != (len(prompts), *counts):
        raise ConfigError(
            f"the search would start from embeddings of shape {tuple(delta.shape)}; expected "
            f"({len(prompts)}, {counts.pop()}, width); give one for each free token of each prompt"
        )


def _rows_per_prompt(draw: NoiseDraw, prompts: Sequence[SoftPrompt]) -> int:
    rows = draw.latents.shape[0]
    if rows == 0 or rows % len(prompts):
        raise ConfigError(
            f"a draw has {rows} rows for {len(prompts)} prompts; expected the same number for every prompt; "
            "draw a multiple of the prompts"
        )
    return rows // len(prompts)
