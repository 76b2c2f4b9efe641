"""The soft prompt attack at test time: does any embedding bring the concept back?

The adversary of AdvUnlearn (arXiv:2405.15234), run against a finished model: the original model draws the
prompt once, every latent z_t of that drawing is kept with the noise that it predicts there, and free token
embeddings in the prompt are searched with which the erased model predicts the same. Nobody can type the
result, so this is the stronger reading of white-box access: who holds the weights can give embeddings.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from diffusers_erasure.diffusion.components import latent_shape
from diffusers_erasure.diffusion.noise import guide
from diffusers_erasure.diffusion.sampling import SamplingPath
from diffusers_erasure.diffusion.soft_prompt import Placement
from diffusers_erasure.settings import setting

from .base import AttackedPrompt, AttackOutcome, AttackTarget
from .config import AttackConfig
from .fitting import free_prompt
from .plain import Plain, screen
from .progress import take
from .registry import WHOLE_MODEL, Access, attack
from .searching import searching
from .soft_prompt import Descent, PlacedPrompts, StepRule, random_embeddings, soft_prompt_attack


class SoftAttackConfig(AttackConfig):
    """Settings of the soft prompt attack at test time."""

    tokens: int = setting(1, "free token embeddings", symbol="k", source="AdvUnlearn", ge=1)
    steps: int = setting(120, "steps of the search (while training: 30)", symbol="K", ge=1)
    learning_rate: float = setting(0.01, "step size (while training: 0.001)", symbol="α", gt=0)
    rule: StepRule = setting("adam", "how a gradient becomes a step")
    draws: int = setting(2, "latents that each step looks at", ge=1)
    checkpoints: int = setting(4, "pictures judged during the search, evenly spaced", ge=1)
    sampling_steps: int = setting(50, "steps of the original model's drawing", ge=2)
    sampling_guidance: float = setting(3.0, "its guidance scale", source="ESD and AdvUnlearn", ge=1)

    @property
    def judged_images(self) -> int:
        """The plain prompt's picture, and one at each checkpoint."""
        return 1 + self.checkpoints

    @property
    def work(self) -> int:
        """Steps of the search."""
        return self.steps

    def scaled(self, factor: int) -> Self:
        """More steps; the number of judged pictures stays."""
        return self.model_copy(update={"steps": self.steps * factor})


@attack(
    "soft_prompt",
    config=SoftAttackConfig,
    access=Access.WHITE_BOX,
    needs_base=True,
    through=WHOLE_MODEL,
)
def soft_attack(
    items: Iterator[AttackedPrompt],
    target: AttackTarget,
    config: SoftAttackConfig,
    *,
    base: AttackTarget,
    report: Callable[[int], None],
) -> Iterator[AttackOutcome]:
    """Search token embeddings that restore the base's noise (AdvUnlearn's adversary, at test time)."""
    while batch := take(items, config.batch_size):
        done, begun = screen(batch, target)
        yield from done
        if begun:
            yield from _attack(begun, target, base, config, report)


@dataclass(frozen=True)
class _Drawn:
    """What one step looks at."""

    latents: Tensor
    timesteps: Tensor
    target_conditional: Tensor


@dataclass(frozen=True)
class Teaching:
    """The original model's drawings: every latent with the noise predicted there.

    Attributes:
        latents: `(steps, batch, channels, height, width)`.
        noise: Conditional prediction, as `latents`.
        timesteps: `(steps,)`.
    """

    latents: Tensor
    noise: Tensor
    timesteps: Tensor

    def draw(self, generators: Sequence[torch.Generator], count: int) -> _Drawn:
        """So many latents of each drawing, those of the first one first."""
        picks = [torch.randint(len(self.timesteps), (count,), generator=one) for one in generators]
        steps = torch.cat(picks).to(self.latents.device)
        rows = torch.arange(len(generators), device=steps.device).repeat_interleave(count)
        return _Drawn(self.latents[steps, rows], self.timesteps[steps], self.noise[steps, rows])


@torch.no_grad()
def teach(
    states: Tensor, base: AttackTarget, noise: Tensor, *, steps: int, guidance_scale: float
) -> Teaching:
    """Draw with the original model by guided DDIM and keep everything; both predictions cost one batch.

    Args:
        states: Text states of what is drawn, `(batch, tokens, width)`.
        base: The original model.
        noise: The start, `(batch, channels, height, width)`.
        steps: Sampling steps.
        guidance_scale: Guidance scale.
    """
    predictor = base.predictor
    latents, kept, predicted, times = noise.to(base.device), [], [], []
    for timestep, previous in SamplingPath(steps, len(predictor.alphas_cumprod)).moves:
        told = torch.tensor(timestep, device=latents.device)
        conditional, unconditional = predictor.both(latents, told, states, base.unconditional)
        kept.append(latents)
        predicted.append(conditional)
        times.append(timestep)
        step = guide(conditional, unconditional, guidance_scale)
        latents = predictor.moved(latents, step, timestep, previous)
    return Teaching(torch.stack(kept), torch.stack(predicted), torch.tensor(times, device=latents.device))


def _attack(
    begun: Sequence[tuple[AttackedPrompt, Plain]],
    target: AttackTarget,
    base: AttackTarget,
    config: SoftAttackConfig,
    report: Callable[[int], None],
) -> Iterator[AttackOutcome]:
    started = time.monotonic()
    items = [item for item, _ in begun]
    generators = [item.generator(config.seed, "soft_prompt") for item in items]
    shape = latent_shape(target.components.unet)
    noise = torch.stack([torch.randn(shape, generator=one) for one in generators])
    states = base.encode([item.aim for item in items])
    teaching = teach(
        states, base, noise, steps=config.sampling_steps, guidance_scale=config.sampling_guidance
    )
    prompts = [free_prompt(target, item.prompt, config.tokens, Placement.PREFIX)[0] for item in items]
    delta = torch.cat([random_embeddings(target.text, 1, config.tokens, one) for one in generators])
    placed = PlacedPrompts.of(prompts, target.text)
    marks = {round(config.steps * (n + 1) / config.checkpoints) for n in range(config.checkpoints)}
    waypoints: list[Tensor] = []

    def after_step(step: int, now: Tensor) -> None:
        report(len(items))
        if step in marks:
            waypoints.append(now)

    with searching(target, config.precision):
        found = soft_prompt_attack(
            prompts,
            target.text,
            target.predictor,
            lambda _step: teaching.draw(generators, config.draws),
            delta=delta,
            descent=Descent(config.steps, config.learning_rate, config.rule),
            after_step=after_step,
        )
    results = _judge(items, target, placed, waypoints)
    for row, (item, one) in enumerate(begun):
        judged, success_at, picture = results[row]
        yield one.outcome(
            item,
            success=success_at is not None,
            success_at=success_at,
            judged=judged,
            ids=None,
            text=None,
            round_trip=None,
            text_survives=None,
            queries=config.steps * config.draws + judged * target.queries_per_picture,
            steps=config.steps,
            seconds=(time.monotonic() - started) / len(begun),
            loss_first=float(found.losses[0, row]),
            loss_last=float(found.losses[-1, row]),
            zero_gradient=bool(found.first_gradient[row] == 0),
            picture=picture,
            details={"base_queries": 2 * config.sampling_steps},
        )


def _judge(
    items: Sequence[AttackedPrompt], target: AttackTarget, placed: PlacedPrompts, waypoints: Sequence[Tensor]
) -> list[tuple[int, int | None, Tensor]]:
    """Per prompt: judged pictures, the number of the first success, and the picture that decided."""
    counts = [1] * len(items)
    success: list[int | None] = [None] * len(items)
    pictures: dict[int, Tensor] = {}
    for delta in waypoints:
        left = [row for row in range(len(items)) if success[row] is None]
        if not left:
            break
        with torch.no_grad():
            states = placed.states(target.text, delta)[left]
        judged = target.judged(states, [items[row].seed for row in left])
        for row, picture, shows in zip(left, judged.images, judged.shows, strict=True):
            counts[row] += 1
            pictures[row] = picture
            success[row] = counts[row] if shows else None
    return [(counts[row], success[row], pictures[row]) for row in range(len(items))]
