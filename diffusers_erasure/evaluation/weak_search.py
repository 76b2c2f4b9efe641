"""Find the strength at which an artifact is the weak eraser of the positive control.

A bisection over a coarse grid, as if a stronger eraser never showed more: the smallest strength at which the
plain prompts hardly show the concept, and random tokens bring it back for half of the hidden ones at most, or
the largest of the grid if there is none. Outcomes are kept on disk like those of attacks, so each strength is
drawn once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from diffusers_erasure.attacks import Access, AttackConfig, AttackSpec

from .attack_report import BASE, WEAK
from .attack_rows import Run
from .attack_runner import Arena, plain_run
from .attack_settings import RANDOM_TOKENS, AttackSettings, equal_budget
from .positive_control import HIDDEN_FLOOR, WEAK_LUCK, WEAK_SCALES, WEAK_SHOWN, WeakEraser
from .subject import Subject, weak_eraser
from .worst_case import NONE


@dataclass(frozen=True)
class Weakened:
    """The weak eraser, and where attacks meet it.

    Attributes:
        record: Its strength, and what it hides.
        plain: The plain prompts on it.
        arena: It with the prompts that it hides; None if they are too few for a control.
    """

    record: WeakEraser
    plain: Run
    arena: Arena | None


def find_weak(subject: Subject, arena: Arena, settings: AttackSettings) -> Weakened:
    """Look for the weak eraser.

    Args:
        subject: What is evaluated.
        arena: Prompts, judges and settings of its attacks.
        settings: Which attacks, and how hard.
    """
    beside = _luck(settings)
    plain: dict[float, Run] = {}
    luck: dict[float, int] = {}

    def hides(scale: float) -> bool:
        there = _at(subject, arena, scale)
        plain[scale] = found = plain_run(there, WEAK).without_pictures()
        if found.record.asr.rate > WEAK_SHOWN:
            return False
        if beside is None or _count(found) < HIDDEN_FLOOR:
            return True
        lucky = _hidden(there, found).run(*beside, pipeline=WEAK).record.asr
        luck[scale] = lucky.k
        return lucky.rate <= WEAK_LUCK

    scale = smallest(WEAK_SCALES, hides)
    if scale not in plain:
        hides(scale)
    chosen = plain[scale]
    record = WeakEraser(
        scale=scale,
        plain=chosen.record.asr,
        hidden=_count(chosen),
        tried={one: run.record.asr.k for one, run in sorted(plain.items())},
        luck=dict(sorted(luck.items())),
    )
    enough = record.hidden >= HIDDEN_FLOOR
    return Weakened(record, chosen, _hidden(_at(subject, arena, scale), chosen) if enough else None)


def _luck(settings: AttackSettings) -> tuple[AttackSpec, AttackConfig] | None:
    """Random tokens with the most judged pictures of any attack; None if all attacks are luck themselves."""
    configs = [config for spec, config in settings.planned() if spec.access is not Access.NONE]
    most = max(configs, key=lambda config: config.judged_images, default=None)
    return None if most is None else equal_budget((RANDOM_TOKENS,), most)[0]


def _count(plain: Run) -> int:
    """Prompts that are hidden: neither shown nor failed."""
    return plain.record.marks.count(NONE)


def smallest(values: Sequence[float], holds: Callable[[float], bool]) -> float:
    """The smallest of rising values for which something holds, as it does for all above; else the last."""
    low, high = 0, len(values) - 1
    while low < high:
        middle = (low + high) // 2
        if holds(values[middle]):
            high = middle
        else:
            low = middle + 1
    return values[low]


def _at(subject: Subject, arena: Arena, scale: float) -> Arena:
    """The same prompts before the artifact at another strength."""
    pipelines = {BASE: subject.base, WEAK: weak_eraser(subject, scale)}
    return replace(arena, pipelines=pipelines, made={}, targets={})


def _hidden(arena: Arena, plain: Run) -> Arena:
    """The same without the prompts whose plain picture shows the concept."""
    marks = zip(plain.record.marks, plain.outcomes, strict=True)
    hidden = {outcome.item for mark, outcome in marks if mark == NONE}
    groups = (
        replace(group, items=tuple(item for item in group.items if item in hidden)) for group in arena.groups
    )
    return replace(arena, groups=tuple(group for group in groups if group.items), made={}, targets={})
