"""Attacks as a part of an evaluation: from its prompts, pictures and judges to the section of the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from .attack_findings import Findings, find
from .attack_grid import attack_grid, stacked
from .attack_groups import Group
from .attack_report import BASE, ERASED
from .attack_runner import Arena, Attacked, Tell, attack_all, plain_run
from .attack_settings import AttackSettings
from .confusion import JudgeValidation
from .curves import Curve, asr_plot, plot_available, share_curve
from .generate import Sampling
from .measure import Measured
from .subject import Subject
from .weak_search import find_weak

PLOT_NAME = "asr.png"
OUTCOMES_NAME = "outcomes.jsonl"


@dataclass(frozen=True)
class UnderAttack:
    """Everything that the attacks of an evaluation left behind.

    Attributes:
        findings: The section of the report, and a line for every prompt.
        attacked: Every attack with its outcomes.
    """

    findings: Findings
    attacked: tuple[Attacked, ...]


def evaluate_attacks(
    subject: Subject,
    groups: tuple[Group, ...],
    settings: AttackSettings,
    sampling: Sampling,
    *,
    validation: Sequence[JudgeValidation],
    store: Path | None = None,
    picture_batch: int = 16,
    tell: Tell | None = None,
) -> UnderAttack:
    """Attack a pipeline and say what came of it.

    Args:
        subject: The base, the erased pipeline and the artifact.
        groups: Prompts with their questions.
        settings: Which attacks, and how hard.
        sampling: Steps and guidance scale of pictures.
        validation: Confusion matrices of the judges that are asked.
        store: Where finished outcomes are kept, so that a run that is killed goes on from there.
        picture_batch: Pictures drawn together.
        tell: Told how far each run is.
    """
    pipelines = {BASE: subject.base, ERASED: subject.erased}
    arena = Arena(pipelines, subject.artifact, groups, sampling, store, picture_batch, tell)
    plain = plain_run(arena)
    weak = find_weak(subject, arena, settings)
    attacked = attack_all(arena, settings, weak.arena)
    findings = find(arena, settings, plain, attacked, weak=weak, validation=validation)
    return UnderAttack(findings, tuple(attacked))


def with_attacks(grid: Image.Image, found: UnderAttack, measured: Measured, *, cell: int) -> Image.Image:
    """The grid of an evaluation with the attacked pictures above it."""
    section = found.findings.section
    worst = section.worst_case.asr
    mark = "" if section.is_adaptive else ", none of them adaptive"
    title = f"Under attack: worst case over all attacks {worst.k} of {worst.n} prompts{mark}"
    return stacked([attack_grid(measured, found.attacked, cell=cell, title=title), grid])


def attack_plot(found: UnderAttack, *, title: str) -> bytes | None:
    """The rate against the budget as a PNG file; None where matplotlib is not installed."""
    if not plot_available():
        return None
    return asr_plot(found.findings.section, _curves(found.attacked), title=title)


def _curves(attacked: Sequence[Attacked]) -> list[Curve]:
    curves = []
    seen: set[tuple[str, int]] = set()
    for one in attacked:
        last = one.runs[-1]
        curves.append(
            _curve(f"{one.spec.name} {last.record.factor}x", last.outcomes, last.record.judged_images)
        )
        for run in one.baselines:
            key = (run.record.attack, run.record.judged_images)
            if run.record.factor == last.record.factor and key not in seen:
                seen.add(key)
                label = f"{run.record.attack.replace('_', ' ')}, {run.record.judged_images} pictures"
                curves.append(_curve(label, run.outcomes, run.record.judged_images, luck=True))
    return curves


def _curve(label: str, outcomes: Sequence[object], judged_images: int, *, luck: bool = False) -> Curve:
    at = [getattr(one, "success_at", None) for one in outcomes]
    return share_curve(label, at, judged_images, luck=luck)
