"""The table of judges: every module of this folder, and the entry points of other packages.

A judge that needs no settings registers itself with `@judge`; judges with one family name make a panel. A
kind of judge that takes settings, such as "any image classifier", registers with `@judge_family` a function
from what was asked for to a panel. Both are asked for in one word, see `request.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from diffusers_erasure.discovery import discover, home_of, name_taken, no_such
from diffusers_erasure.errors import ConfigError, EvaluationError
from diffusers_erasure.evaluation.prompt_sets import JudgeRole

from .base import Judge, find_labels
from .request import JudgeRequest, parse_judge

logger = logging.getLogger(__name__)

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
    """The judges of one family, by the question that each answers.

    Attributes:
        concept: Names concepts.
        style: Names styles.
        second: Names concepts too, and is of another architecture.
        retention: Names what should stay, where that is more than the concept judge can name.
        asked: Labels that count as the concept, if whoever asked for the panel said so.
    """

    concept: Judge
    style: Judge | None = None
    second: Judge | None = None
    retention: Judge | None = None
    asked: tuple[str, ...] = ()

    def of(self, role: JudgeRole) -> Judge:
        """The judge for a question."""
        found = {
            JudgeRole.CONCEPT: self.concept,
            JudgeRole.SECOND: self.second,
            JudgeRole.STYLE: self.style,
            JudgeRole.RETENTION: self.retention,
        }[role]
        if found is None:
            raise ConfigError(
                f"the panel of {self.concept.name!r} has no {role.value} judge; expected one for this "
                "prompt set; choose a panel that has it"
            )
        return found

    @property
    def members(self) -> tuple[Judge, ...]:
        """Every judge there is."""
        return tuple(
            found for found in (self.concept, self.second, self.style, self.retention) if found is not None
        )


@dataclass(frozen=True)
class Question:
    """One judge, bound to the labels that count: what attacks and confusion matrices ask.

    Attributes:
        judge: Who answers.
        labels: The judge's own labels; a picture that shows one of them shows the concept.
    """

    judge: Judge
    labels: tuple[str, ...]

    def __call__(self, images: Tensor) -> Tensor:
        """Whether each picture shows the concept: `(pictures,)` bool for `(pictures, 3, h, w)` uint8."""
        answers = self.judge.judge(images).shows([self.labels] * len(images))
        return torch.tensor(answers, dtype=torch.bool)

    def __str__(self) -> str:
        """The question in words: `church by embedded-concept 1, threshold 0.25`."""
        judge = self.judge
        return f"{' or '.join(self.labels)} by {judge.name} {judge.version}, threshold {judge.threshold:g}"


LoadFamily = Callable[[JudgeRequest, str], Panel]
"""Makes the panel that a request asks for, on a device."""

_REGISTRY: dict[str, JudgeSpec] = {}
_FAMILIES: dict[str, LoadFamily] = {}


def judge(
    name: str, *, family: str, role: JudgeRole
) -> Callable[[Callable[[str], Judge]], Callable[[str], Judge]]:
    """Register a function that loads a judge for a device (decorator)."""

    def register(load: Callable[[str], Judge]) -> Callable[[str], Judge]:
        if name in _REGISTRY:
            homes = home_of(_REGISTRY[name].load), home_of(load)
            raise ConfigError(name_taken("judge", "judges", name, *homes))
        _REGISTRY[name] = JudgeSpec(name, family, role, load)
        return load

    return register


def judge_family(name: str) -> Callable[[LoadFamily], LoadFamily]:
    """Register a kind of judge that takes settings, such as the weights to use (decorator)."""

    def register(load: LoadFamily) -> LoadFamily:
        if name in _FAMILIES:
            homes = home_of(_FAMILIES[name]), home_of(load)
            raise ConfigError(name_taken("family of judges", "families of judges", name, *homes))
        _FAMILIES[name] = load
        return load

    return register


@lru_cache(maxsize=1)
def _discover() -> None:
    discover(__package__, group=ENTRY_POINT_GROUP, what="judge")


def judges() -> dict[str, JudgeSpec]:
    """Every judge that needs no settings, by name."""
    _discover()
    return dict(sorted(_REGISTRY.items()))


def judge_families() -> tuple[str, ...]:
    """Every family that `--judge` can name."""
    return tuple(sorted({spec.family for spec in judges().values()} | set(_FAMILIES)))


def load_panel(family: str = "embedded", *, names: Sequence[str] = (), device: str = "cpu") -> Panel:
    """Load the judges of one family.

    Args:
        family: `family:location@revision#label,option=value`, of which only the family must be there; see
            `request.py`.
        names: What they will be asked about, for judges that can name whatever they are told.
        device: Where their networks are to be.

    Raises:
        ConfigError: There is no such family, or it has no such setting.
    """
    request = replace(parse_judge(family), names=tuple(names))
    families = judge_families()
    if request.family in _FAMILIES:
        panel = _FAMILIES[request.family](request, device)
    elif request.family in families:
        request.check(location=False)
        panel = _registered_panel(request.family, device)
    else:
        raise ConfigError(no_such("panel of judges named", "panels", request.family, families))
    return replace(panel, asked=panel.asked or request.labels)


def _registered_panel(family: str, device: str) -> Panel:
    loaded = {spec.role: spec.load(device) for spec in judges().values() if spec.family == family}
    if JudgeRole.CONCEPT not in loaded:
        raise ConfigError(
            f"the panel {family!r} has no judge that names concepts; expected one with "
            "role=JudgeRole.CONCEPT; register it too"
        )
    return Panel(
        concept=loaded[JudgeRole.CONCEPT],
        style=loaded.get(JudgeRole.STYLE),
        second=loaded.get(JudgeRole.SECOND),
        retention=loaded.get(JudgeRole.RETENTION),
    )


def load_question(family: str = "embedded", labels: Sequence[str] = (), *, device: str = "cpu") -> Question:
    """Load a judge and the labels that count as showing the concept.

    Args:
        family: As for `load_panel`; labels that it names itself take precedence.
        labels: What counts otherwise: the concept's name, say. A style is asked of the style judge.
        device: Where the network is to be.

    Raises:
        ConfigError: No labels were given, and the family has none of its own.
        EvaluationError: No judge of the panel knows one of the labels.
    """
    panel = load_panel(family, device=device)
    return panel_question(panel, panel.asked or tuple(labels))


def panel_question(panel: Panel, labels: Sequence[str], *, second: bool = False) -> Question:
    """The question whether a picture shows one of some labels, asked of the judge that knows them.

    Args:
        panel: The judges.
        labels: What counts; each must be known to one and the same judge.
        second: Ask the second concept judge.

    Raises:
        ConfigError: There are no labels, or there is no second judge.
        EvaluationError: No judge of the panel knows one of the labels.
    """
    if not labels:
        raise ConfigError(
            f"nothing was asked of the judge {panel.concept.name!r}; expected labels that count as the "
            "concept; write them behind a #, as in --judge embedded#church"
        )
    if second:
        judge = panel.of(JudgeRole.SECOND)
        return Question(judge, find_labels(labels, judge.labels))
    if panel.style is not None:
        try:
            return Question(panel.style, find_labels(labels, panel.style.labels))
        except EvaluationError:
            logger.debug("%s names no %s; asking %s", panel.style.name, labels, panel.concept.name)
    return Question(panel.concept, find_labels(labels, panel.concept.labels))
