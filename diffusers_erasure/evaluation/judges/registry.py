"""The table of judges: every module of this folder, and the entry points of other packages."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from importlib.metadata import entry_points

from diffusers_erasure.errors import ConfigError
from diffusers_erasure.evaluation.prompt_sets import JudgeRole

from .base import Judge

ENTRY_POINT_GROUP = "diffusers_erasure.judges"


@dataclass(frozen=True)
class JudgeSpec:
    """A judge that can be loaded.

    Attributes:
        name: Its own name.
        family: The panel it belongs to.
        role: Which question it answers in the panel.
        load: Makes the judge for a device.
    """

    name: str
    family: str
    role: JudgeRole
    load: Callable[[str], Judge]


@dataclass(frozen=True)
class Panel:
    """The judges of one family, by the question that each answers."""

    concept: Judge
    style: Judge | None = None
    second: Judge | None = None

    def of(self, role: JudgeRole) -> Judge:
        """The judge for a question."""
        found = {JudgeRole.CONCEPT: self.concept, JudgeRole.SECOND: self.second, JudgeRole.STYLE: self.style}[
            role
        ]
        if found is None:
            raise ConfigError(
                f"the panel of {self.concept.name!r} has no {role.value} judge; expected one for this "
                "prompt set; choose a panel that has it"
            )
        return found

    @property
    def members(self) -> tuple[Judge, ...]:
        """Every judge there is."""
        return tuple(found for found in (self.concept, self.second, self.style) if found is not None)


_REGISTRY: dict[str, JudgeSpec] = {}


def judge(
    name: str, *, family: str, role: JudgeRole
) -> Callable[[Callable[[str], Judge]], Callable[[str], Judge]]:
    """Register a function that loads a judge for a device (decorator)."""

    def register(load: Callable[[str], Judge]) -> Callable[[str], Judge]:
        if name in _REGISTRY:
            raise ConfigError(f"there are two judges named {name!r}; names are unique; rename one of them")
        _REGISTRY[name] = JudgeSpec(name, family, role, load)
        return load

    return register


@lru_cache(maxsize=1)
def _discover() -> None:
    package = __package__ or ""
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        importlib.import_module(f"{package}.{module.name}")
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        entry.load()


def judges() -> dict[str, JudgeSpec]:
    """Every judge by name."""
    _discover()
    return dict(sorted(_REGISTRY.items()))


def load_panel(family: str = "embedded", *, device: str = "cpu") -> Panel:
    """Load the judges of one family."""
    known = judges().values()
    found = {spec.role: spec for spec in known if spec.family == family}
    if JudgeRole.CONCEPT not in found:
        families = sorted({spec.family for spec in known})
        near = get_close_matches(family, families, n=1)
        raise ConfigError(
            f"there is no panel of judges named {family!r}; known panels are "
            f"{', '.join(families) or 'none'}; "
            + (f"did you mean {near[0]!r}?" if near else "choose one of these")
        )
    loaded = {role: spec.load(device) for role, spec in found.items()}
    return Panel(
        concept=loaded[JudgeRole.CONCEPT],
        style=loaded.get(JudgeRole.STYLE),
        second=loaded.get(JudgeRole.SECOND),
    )
