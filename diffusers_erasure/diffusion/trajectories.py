"""Trajectories: latents of many steps of one sampling run, with what the frozen model says there.

Methods that train a text encoder need pairs of a noisy latent and the teacher's predictions at it. A run of
S steps passes S such latents, so that sampling it once serves S draws instead of one. Where the UNet is asked
at the very timestep at which the sampler stands ("aligned"), the sampler's own predictions, one for each half
of the guidance, are the targets, and cost nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusers_erasure.errors import ConfigError, TrainingError

from .components import evaluating
from .noise import NoisePredictor, guide
from .sampling import SamplingPath


@dataclass(frozen=True)
class Pairs:
    """Latents with the frozen model's predictions, one row each.

    Attributes:
        latents: `(rows, channels, height, width)`.
        timesteps: At which the predictions were asked for, `(rows,)`.
        conditional: Noise predicted for the row's prompt, of the latents' shape.
        unconditional: Noise predicted for the unconditional prompt; None if it was not asked for.
    """

    latents: Tensor
    timesteps: Tensor
    conditional: Tensor
    unconditional: Tensor | None

    def tensors(self) -> dict[str, Tensor]:
        """By name, without what is missing."""
        named = {"latents": self.latents, "timesteps": self.timesteps, "conditional": self.conditional}
        return named if self.unconditional is None else {**named, "unconditional": self.unconditional}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Pairs:
        """The reverse of `tensors`."""
        return cls(
            tensors["latents"], tensors["timesteps"], tensors["conditional"], tensors.get("unconditional")
        )

    @classmethod
    def joined(cls, parts: Sequence[Pairs]) -> Pairs:
        """Pairs one after the other; at least one part, all with the same tensors."""
        columns = [part.tensors() for part in parts]
        return cls.from_tensors(
            {name: torch.cat([column[name] for column in columns]) for name in columns[0]}
        )

    def rows(self, which: slice | Tensor) -> Pairs:
        """Some of the rows, in this order."""
        return Pairs.from_tensors({name: tensor[which] for name, tensor in self.tensors().items()})

    def stored(self, dtype: torch.dtype) -> Pairs:
        """In main memory, with floating point values in this dtype."""
        return Pairs.from_tensors(
            {
                name: tensor.to("cpu", dtype if tensor.is_floating_point() else tensor.dtype)
                for name, tensor in self.tensors().items()
            }
        )

    def check(self, origin: str) -> Pairs:
        """These pairs, if every value is finite.

        Raises:
            TrainingError: One is not.
        """
        for name, tensor in self.tensors().items():
            broken = int((~torch.isfinite(tensor)).sum())
            if broken:
                raise TrainingError(
                    f"{origin}: {broken} of {tensor.numel()} values of {name} are not finite; expected "
                    f"finite latents and predictions; use bfloat16 or float32 in place of float16, or "
                    f"check the base model"
                )
        return self


@dataclass(frozen=True)
class TrajectorySource:
    """Everything that is the same for all trajectories.

    Attributes:
        predictor: The frozen model: its predictions are the targets.
        states: Text states of every prompt, `(prompts, tokens, width)`.
        unconditional: States of the unconditional prompt, `(1, tokens, width)`.
        path: The sampling run.
        guidance_scale: Classifier-free guidance while sampling.
        with_unconditional: Whether the unconditional predictions are wanted too.
        sampler: Model that samples, where it is another one (the UNet in training); None for `predictor`.
    """

    predictor: NoisePredictor
    states: Tensor
    unconditional: Tensor
    path: SamplingPath
    guidance_scale: float = 3.0
    with_unconditional: bool = True
    sampler: NoisePredictor | None = None

    @property
    def evaluations(self) -> int:
        """UNet evaluations so far, of sampler and predictor."""
        other = 0 if self.sampler is None else self.sampler.evaluations
        return self.predictor.evaluations + other

    def sample(
        self, prompts: Tensor, noise: Tensor, positions: Tensor, timesteps: Tensor, *, batch_size: int = 64
    ) -> Pairs:
        """Run trajectories and keep some of their latents.

        Args:
            prompts: Number of each trajectory's prompt, `(trajectories,)`.
            noise: Where each starts, `(trajectories, channels, height, width)`.
            positions: Step indices to keep, `(trajectories, kept)`.
            timesteps: Timesteps to ask the UNet at, `(trajectories, kept)`; see `SamplingPath.timesteps`.
            batch_size: Most trajectories at once.

        Returns:
            `trajectories · kept` rows, those of a trajectory together, in the order of `positions`.
        """
        if not prompts.numel() or not positions.shape[1]:
            raise ConfigError(
                f"{prompts.numel()} trajectories with {positions.shape[1]} latents each were asked for; "
                f"expected at least one of both; give a prompt and a position"
            )
        chunks = [
            self._run(*chunk)
            for chunk in zip(
                *(tensor.split(batch_size) for tensor in (prompts, noise, positions, timesteps)), strict=True
            )
        ]
        return Pairs.joined(chunks).check("a sampled trajectory")

    def _run(self, prompts: Tensor, noise: Tensor, positions: Tensor, timesteps: Tensor) -> Pairs:
        sampler = self.predictor if self.sampler is None else self.sampler
        device = sampler.unet.device
        run = _Run(
            states=self.states[prompts.to(self.states.device)].to(device),
            latents=noise.to(device, torch.float32, copy=True),
            needed=torch.tensor([[self.path.moves_until(int(k)) for k in row] for row in positions]).to(
                device
            ),
            timesteps=timesteps.to(device),
            kept=_Kept(positions.shape, noise.shape, device=device, unconditional=self.with_unconditional),
        )
        with evaluating(sampler.unet), evaluating(self.predictor.unet):
            for move in range(int(run.needed.max()) + 1):
                self._arrive_and_move(sampler, run, move)
        return run.kept.pairs(timesteps.to(device))

    def _arrive_and_move(self, sampler: NoisePredictor, run: _Run, move: int) -> None:
        """Keep what is wanted after this many moves, and make the next one."""
        last = run.needed.max(dim=1).values
        if self.path.alignment == "aligned" and self.sampler is None:
            rows = (last >= move).nonzero().flatten()
            timestep = self.path.grid[self.path.steps - 1 - move]
            conditional, without = self._predict(self.predictor, run, rows, timestep)
            for slot in range(run.needed.shape[1]):
                here = (run.needed[rows, slot] == move).nonzero().flatten()
                run.keep(rows[here], slot, conditional[here], None if without is None else without[here])
            moving = last[rows] > move
            if not moving.any():
                return
            said = conditional if without is None else guide(conditional, without, self.guidance_scale)
            said = said[moving]
            rows = rows[moving]
        else:
            for slot in range(run.needed.shape[1]):
                here = (run.needed[:, slot] == move).nonzero().flatten()
                if len(here):
                    asked = self._predict(self.predictor, run, here, run.timesteps[here, slot], target=True)
                    run.keep(here, slot, *asked)
            rows = (last > move).nonzero().flatten()
            if not len(rows):
                return
            conditional, without = self._predict(sampler, run, rows, self.path.moves[move][0])
            said = conditional if without is None else guide(conditional, without, self.guidance_scale)
        run.latents[rows] = sampler.moved(run.latents[rows], said, *self.path.moves[move])

    def _predict(
        self, model: NoisePredictor, run: _Run, rows: Tensor, timestep: int | Tensor, *, target: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Both predictions, or the conditional one alone where neither guidance nor target need the other."""
        times = torch.as_tensor(timestep, device=run.latents.device)
        guided = self.guidance_scale != 1 and not target
        latents, states = run.latents[rows], run.states[rows]
        if self.with_unconditional or guided:
            conditional, without = model.both(latents, times, states, self.unconditional)
            return conditional.to(latents.device), without.to(latents.device)
        return model(latents, times, states).to(latents.device), None


@dataclass(frozen=True)
class _Run:
    """Some trajectories under way."""

    states: Tensor
    latents: Tensor
    needed: Tensor
    timesteps: Tensor
    kept: _Kept

    def keep(self, rows: Tensor, slot: int, conditional: Tensor, unconditional: Tensor | None) -> None:
        """Note latents and predictions of some rows."""
        self.kept.latents[rows, slot] = self.latents[rows]
        self.kept.conditional[rows, slot] = conditional
        if self.kept.unconditional is not None and unconditional is not None:
            self.kept.unconditional[rows, slot] = unconditional


class _Kept:
    """What is kept of them, `(trajectories, kept, channels, height, width)`."""

    def __init__(
        self, positions: torch.Size, noise: torch.Size, *, device: torch.device, unconditional: bool
    ) -> None:
        shape = (*positions, *noise[1:])
        self.latents = torch.full(shape, torch.nan, device=device)
        self.conditional = torch.full(shape, torch.nan, device=device)
        self.unconditional = torch.full(shape, torch.nan, device=device) if unconditional else None

    def pairs(self, timesteps: Tensor) -> Pairs:
        """As rows."""
        without = None if self.unconditional is None else self.unconditional.flatten(0, 1)
        return Pairs(self.latents.flatten(0, 1), timesteps.flatten(), self.conditional.flatten(0, 1), without)
