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

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

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
    """Gradients after rectification, and what it was about.

    Attributes:
        gradients: g by the weight's name.
        cosine: Mean over blocks of the cosine of g_e and g_r; 0 while g_r is 0.
        omega: Mean ω.
        conflicts: Share of the blocks with a conflict.
    """

    gradients: Mapping[str, Tensor]
    cosine: float
    omega: float
    conflicts: float


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
    def __call__(self, erase: Mapping[str, Tensor], pull: Mapping[str, Tensor]) -> Rectified:
        """The rectified gradient of every tensor.

        Args:
            erase: g_e by the weight's name.
            pull: g_r = θ - θ0, float32, of the same names and shapes.
        """
        blocks = {name: [name] for name in erase} if self.settings.scope == "tensor" else {_ALL: [*erase]}
        products = _inner_products(erase, pull)
        found: dict[str, Tensor] = {}
        cosines, conflicts = [], []
        for block, names in blocks.items():
            inner, along, across = (sum(products[name][kind] for name in names) for kind in range(3))
            if along == 0.0:
                found.update({name: erase[name] for name in names})
                continue
            omega = self._next_omega(block, names, erase, inner)
            cosines.append(inner / max((along * across) ** 0.5, torch.finfo(torch.float64).tiny))
            conflicts.append(float(inner < 0))
            for name in names:
                found[name] = self._rectify(name, erase[name], pull[name], inner / along, omega)
            self.signs[block] = _sign(inner)
        self.done += 1
        many = max(len(blocks), 1)
        return Rectified(
            gradients=found,
            cosine=sum(cosines) / many,
            omega=sum(self.omegas.values()) / many,
            conflicts=sum(conflicts) / many,
        )

    def _next_omega(self, block: str, names: list[str], erase: Mapping[str, Tensor], inner: float) -> float:
        settings = self.settings
        if settings.rule == "fixed":
            omega = settings.omega
        elif settings.rule == "linear":
            omega = settings.largest * min(1.0, self.done / max(settings.steps - 1, 1))
        else:
            released = settings.rule == "released"
            step = RELEASED_STEP if released else settings.step
            largest = RELEASED_MAX if released else settings.largest
            before = self.omegas.get(block, settings.omega)
            omega = min(max(before - step * self._agreement(block, names, erase, inner), 0.0), largest)
        self.omegas[block] = omega
        return omega

    def _agreement(self, block: str, names: list[str], erase: Mapping[str, Tensor], inner: float) -> float:
        """The sign of <g_e, p_before>; 0 where there is none yet."""
        if self.settings.memory == "sign":
            return self.signs.get(block, 0.0) * _sign(inner)
        kept = [name for name in names if name in self.projections]
        return _sign(sum(float(_inner(erase[name], self.projections[name])) for name in kept))

    def _rectify(self, name: str, erase: Tensor, pull: Tensor, share: float, omega: float) -> Tensor:
        projection = share * pull
        if self.settings.ema and name in self.projections:
            projection = self.settings.ema * self.projections[name] + (1 - self.settings.ema) * projection
        if self.settings.ema or self.settings.memory == "full":
            self.projections[name] = projection.clone()
        if share < 0:
            return erase - omega * projection
        return erase + self.settings.pull * pull if self.settings.pull else erase

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


def _inner_products(erase: Mapping[str, Tensor], pull: Mapping[str, Tensor]) -> dict[str, list[float]]:
    """<g_e, g_r>, |g_r|² and |g_e|² of each tensor; they leave the device all at once."""
    rows = [
        torch.stack([_inner(one, pull[name]), _inner(pull[name], pull[name]), _inner(one, one)])
        for name, one in erase.items()
    ]
    return dict(zip(erase, torch.stack(rows).tolist(), strict=True))


def _inner(one: Tensor, other: Tensor) -> Tensor:
    return (one * other).sum(dtype=torch.float64)


def _sign(value: float) -> float:
    return float((value > 0) - (value < 0))
