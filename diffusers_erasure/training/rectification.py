"""Gradient rectification by projection: retention without retained data (AEGIS, arXiv:2602.06771: PR, DGR).

What must stay is said by the weights themselves: L_r = ½ |θ - θ0|² pulls them to the original, g_r = θ - θ0.
For every weight tensor, with g_e the gradient of the erasure,

    a = <g_e, g_r> / |g_r|²,   p = a g_r                       (the part of g_e along g_r)
    ω <- clip( ω - μ sign <g_e, p_before>, 0, ω_max )          (p_before of the last step; ω starts at 0)
    g = g_e - ω p    where <g_e, g_r> < 0, a conflict;   g = g_e elsewhere

A conflict is where erasing would move a weight further away than it is. As long as g_r is 0, g is g_e, to the
bit. <g, g_r> = (1 - ω) <g_e, g_r>, and <g, g_e> >= 0 for ω <= 1: the erasure still goes down. Scaling g_r
changes nothing.

Rules for ω: `paper` (μ = 0.1, at most 1), `released` (0.2, at most 1e6), `fixed` at `omega`, `linear` from 0
to ω_max over the run. The sign of <g_e, p_before> is that of a · a_before, so one number for each tensor can
stand for p_before (`sign`); `full` keeps p_before itself, a copy of the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Literal, Self

import torch
from torch import Tensor

from diffusers_erasure.diffusion.precision import widest

OmegaRule = Literal["paper", "released", "fixed", "linear"]
Memory = Literal["sign", "full"]
Scope = Literal["tensor", "global"]
_ALL = "all"
"""Name of the one block of scope `global`."""
RELEASED_STEP, RELEASED_MAX = 0.2, 1e6


@dataclass(frozen=True)
class Rectification:
    """How gradients are rectified.

    Attributes:
        rule: How ω goes.
        omega: Where it starts; the value of `fixed`.
        step: μ.
        largest: ω_max.
        memory: What is kept of the last projection.
        scope: Whether inner products are those of each tensor, or over all of them.
        ema: Share of the last projections in the one that is subtracted; 0 takes the present one alone.
        pull: Weight of g_r where there is no conflict; the paper has 0.
        steps: Of the whole run, for `linear`.
    """

    rule: OmegaRule = "paper"
    omega: float = 0.0
    step: float = 0.1
    largest: float = 1.0
    memory: Memory = "sign"
    scope: Scope = "tensor"
    ema: float = 0.0
    pull: float = 0.0
    steps: int = 1000


@dataclass(frozen=True)
class Rectified:
    """What one rectification was about.

    Attributes:
        cosine: Mean over blocks of the cosine of g_e and g_r; 0 while g_r is 0.
        omega: Mean ω.
        conflicts: Share of the blocks with a conflict.
        pull: |g_r| over all tensors; with weights as the surrogate, the distance to the original.
    """

    cosine: float
    omega: float
    conflicts: float
    pull: float


@dataclass(frozen=True)
class Gradients:
    """Where gradients come from and go to, tensor by tensor, so that none is ever made for all of them.

    Attributes:
        names: Of the weights.
        erase: g_e of a weight.
        pull: g_r of a weight, float32, of the same shape. It is asked for at most twice in a step, and may be
            overwritten after the second time.
        add: Adds a correction to g_e, so that it becomes g; not called where g is g_e.
    """

    names: Sequence[str]
    erase: Callable[[str], Tensor]
    pull: Callable[[str], Tensor]
    add: Callable[[str, Tensor], None]

    @classmethod
    def held(cls, erase: Mapping[str, Tensor], pull: Callable[[str], Tensor]) -> Self:
        """Gradients by name, changed in place."""

        def add(name: str, correction: Tensor) -> None:
            erase[name].add_(correction)

        return cls([*erase], erase.__getitem__, pull, add)


@dataclass
class Rectifier:
    """Rectifies the gradients of one run, step after step.

    Attributes:
        settings: How.
        omegas: ω of each block.
        signs: Sign of the last a of each block.
        projections: The last p by the weight's name, where they are kept.
        done: Steps so far.
    """

    settings: Rectification
    omegas: dict[str, float] = field(default_factory=dict)
    signs: dict[str, float] = field(default_factory=dict)
    projections: dict[str, Tensor] = field(default_factory=dict)
    done: int = 0

    @torch.no_grad()
    def __call__(self, gradients: Gradients) -> Rectified:
        """Rectify every tensor: all inner products, which leave the device at once, then corrections."""
        blocks = self._blocks(gradients.names)
        products = self.products(gradients)
        if not all(isfinite(number) for row in products.values() for number in row):
            # An overflow of half precision, whose step is skipped: nothing of it may be remembered.
            self.done += 1
            return Rectified(cosine=0.0, omega=self._mean_omega(blocks), conflicts=0.0, pull=0.0)
        cosines, conflicts = [], []
        for block, names in blocks.items():
            inner, along, across, before = (sum(products[name][kind] for name in names) for kind in range(4))
            if along == 0.0:
                continue
            omega = self._next_omega(block, inner, before)
            cosines.append(inner / max((along * across) ** 0.5, torch.finfo(torch.float64).tiny))
            conflicts.append(float(inner < 0))
            for name in names:
                self._rectify(name, gradients, inner / along, omega)
            self.signs[block] = _sign(inner)
        self.done += 1
        many = max(len(blocks), 1)
        return Rectified(
            cosine=sum(cosines) / many,
            omega=self._mean_omega(blocks),
            conflicts=sum(conflicts) / many,
            pull=sum(row[1] for row in products.values()) ** 0.5,
        )

    def _mean_omega(self, blocks: Mapping[str, Sequence[str]]) -> float:
        return sum(self.omegas.values()) / max(len(blocks), 1)

    def products(self, gradients: Gradients) -> dict[str, list[float]]:
        """<g_e, g_r>, |g_r|², |g_e|² and <g_e, p_before> of each tensor; the last is 0 without p_before."""
        rows = []
        for name in gradients.names:
            erase, pull, kept = gradients.erase(name), gradients.pull(name), self.projections.get(name)
            before = torch.zeros((), dtype=widest(erase.device), device=erase.device)
            if kept is not None and self.settings.memory == "full":
                before = _inner(erase, kept)
            rows.append(torch.stack([_inner(erase, pull), _inner(pull, pull), _inner(erase, erase), before]))
        return dict(zip(gradients.names, torch.stack(rows).tolist() if rows else [], strict=True))

    def _blocks(self, names: Sequence[str]) -> dict[str, list[str]]:
        if self.settings.scope == "tensor":
            return {name: [name] for name in names}
        return {_ALL: [*names]} if names else {}

    def _next_omega(self, block: str, inner: float, before: float) -> float:
        settings = self.settings
        if settings.rule == "fixed":
            omega = settings.omega
        elif settings.rule == "linear":
            omega = settings.largest * min(1.0, self.done / max(settings.steps - 1, 1))
        else:
            released = settings.rule == "released"
            step = RELEASED_STEP if released else settings.step
            largest = RELEASED_MAX if released else settings.largest
            kept = settings.memory == "sign"
            agreement = self.signs.get(block, 0.0) * _sign(inner) if kept else _sign(before)
            omega = min(max(self.omegas.get(block, settings.omega) - step * agreement, 0.0), largest)
        self.omegas[block] = omega
        return omega

    def _rectify(self, name: str, gradients: Gradients, share: float, omega: float) -> None:
        """Correct one tensor: -ω p in a conflict, elsewhere what the settings' pull adds."""
        remembers = bool(self.settings.ema) or self.settings.memory == "full"
        scale = -omega * share if share < 0 else self.settings.pull
        if not (remembers or scale):
            return
        pull = gradients.pull(name)
        if not remembers:
            gradients.add(name, pull.mul_(scale))
            return
        kept = self.projections.get(name)
        projection = share * pull
        if self.settings.ema and kept is not None:
            projection.mul_(1 - self.settings.ema).add_(kept, alpha=self.settings.ema)
        self.projections[name] = projection
        if share < 0 and omega:
            gradients.add(name, torch.mul(projection, -omega, out=pull))
        elif share >= 0 and scale:
            gradients.add(name, pull.mul_(scale))

    def state(self) -> dict[str, Tensor]:
        """What a run needs to go on."""
        numbers = {
            f"{kind}/{block}": torch.tensor(value, dtype=torch.float64)
            for kind, held in (("omega", self.omegas), ("sign", self.signs))
            for block, value in held.items()
        }
        kept = {f"projection/{name}": value.cpu() for name, value in self.projections.items()}
        return {"done": torch.tensor(self.done), **numbers, **kept}

    def load_state(self, state: Mapping[str, Tensor], *, device: torch.device | str = "cpu") -> None:
        """Take up what `state` gave.

        Args:
            state: As it was given.
            device: Where kept projections go.
        """
        self.done = int(state["done"])
        parts: dict[str, dict[str, Tensor]] = {"omega": {}, "sign": {}, "projection": {}}
        for key, value in state.items():
            kind, _, name = key.partition("/")
            if kind in parts:
                parts[kind][name] = value
        self.omegas = {name: float(value) for name, value in parts["omega"].items()}
        self.signs = {name: float(value) for name, value in parts["sign"].items()}
        self.projections = {name: value.to(device).clone() for name, value in parts["projection"].items()}


def _inner(one: Tensor, other: Tensor) -> Tensor:
    return (one * other).sum(dtype=widest(one.device))


def _sign(value: float) -> float:
    return float((value > 0) - (value < 0))
