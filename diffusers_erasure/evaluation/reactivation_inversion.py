"""Concept inversion among the items: taken from a report that is there, or run as the attack that it is."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError
from torch import Tensor

from diffusers_erasure.attacks import attack_named
from diffusers_erasure.errors import EvaluationError

from .attack_file import AttackFile
from .attack_report import BASE, ERASED, RunRecord
from .attack_runner import Arena, Tell
from .attack_settings import preset_config
from .reactivation_items import BY_KEY, INVERSION
from .reactivation_report import CountedPictures, ReactivationRow
from .reactivation_stage import Stage
from .reactivation_store import MeasuredItem
from .report import EvaluationReport, read_report

logger = logging.getLogger(__name__)

ATTACK = "concept_inversion"
REPORTS = ("attack.json", "evaluation.json")
"""Names of reports in which the attack may stand."""


def reports_in(folders: Sequence[Path]) -> tuple[Path, ...]:
    """Reports in some folders in which the attack may stand."""
    return tuple(folder / name for folder in folders for name in REPORTS if (folder / name).is_file())


def inversion_from_reports(paths: Sequence[Path], stage: Stage) -> MeasuredItem | None:
    """The attack's largest run on this artifact in the first report that has one; None if there is none.

    Args:
        paths: Reports of `evaluate --attacks` or `attack`. What is no such report is passed over, and so is,
            with a warning, one that asked other judges, about other labels, or of other pictures.
        stage: What is attacked, and how it is measured.
    """
    for path in paths:
        report = _report(path)
        runs = [run for run in _runs(report) if _is_of(run, stage.subject.artifact.digest)]
        differing = _differing(report, stage) if runs else []
        if differing:
            logger.warning(
                "%s is passed over: its %s was measured with %s", path, ATTACK, " and ".join(differing)
            )
        elif runs:
            largest = max(runs, key=lambda run: (run.steps_allowed, run.prompts.planned))
            return MeasuredItem(inversion_row(largest, taken_from=path.name), None)
    return None


def _is_of(run: RunRecord, digest: str) -> bool:
    return run.attack == ATTACK and run.pipeline == ERASED and run.digest == digest


def _report(path: Path) -> EvaluationReport | AttackFile | None:
    try:
        if path.name == "evaluation.json":
            return read_report(path)
        return AttackFile.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError, OSError, EvaluationError) as error:
        logger.warning("%s is passed over: it is no report of an attack (%s)", path, error)
        return None


def _runs(report: EvaluationReport | AttackFile | None) -> tuple[RunRecord, ...]:
    if isinstance(report, AttackFile):
        return (report.run,)
    return () if report is None or isinstance(report.attacks, str) else report.attacks.runs


def _differing(report: EvaluationReport | AttackFile | None, stage: Stage) -> list[str]:
    """With what a report was measured, where that is not what the stage measures with."""
    if report is None:
        return []
    drawn = report if isinstance(report, AttackFile) else report.settings
    questions = [group.question for group in stage.groups]
    asked = {question.judge.sha256 for question in questions}
    labels = {label for question in questions for label in question.labels}
    found = {
        f"{drawn.steps} steps, not {stage.sampling.steps}": drawn.steps != stage.sampling.steps,
        f"guidance scale {drawn.guidance_scale:g}, not {stage.sampling.guidance_scale:g}": (
            drawn.guidance_scale != stage.sampling.guidance_scale
        ),
        "another judge": not asked <= {judge.sha256 for judge in report.judges},
    }
    if isinstance(report, AttackFile):  # an evaluation asks about what its artifact erases
        found[f"the labels {', '.join(report.labels)}"] = set(report.labels) != labels
    return [what for what, differs in found.items() if differs]


def run_inversion(stage: Stage, budget: str, *, store: Path | None, tell: Tell | None) -> MeasuredItem:
    """Run the attack on the prompts of a stage.

    Args:
        stage: Pipelines, prompts and judges.
        budget: Name of the attack's budget preset.
        store: Where finished outcomes are kept.
        tell: Told how far it is.
    """
    subject = stage.subject
    arena = Arena(
        {BASE: subject.base, ERASED: subject.erased},
        subject.artifact,
        stage.groups,
        stage.sampling,
        store,
        stage.batch_size,
        tell,
    )
    spec = attack_named(ATTACK)
    run = arena.run(spec, preset_config(spec, budget))
    image: Tensor | None = run.outcomes[0].picture
    return MeasuredItem(inversion_row(run.record), image)


def inversion_row(run: RunRecord, *, taken_from: str = "") -> ReactivationRow:
    """A run of the attack as a row among the manipulations.

    Args:
        run: The attack on the erased pipeline.
        taken_from: Name of the report that it stands in; empty if it was run for this one.
    """
    whose = f"of the {run.asr.n} prompts of {taken_from}; " if taken_from else ""
    return ReactivationRow(
        key=INVERSION,
        title=BY_KEY[INVERSION].title,
        state_before=run.state_before,
        found=CountedPictures.of(run.marks, run.prompts.faults),
        settings=run.settings,
        note=f"{whose}counts prompts whose plain picture shows the concept, too",
        taken_from=taken_from,
        seconds=run.seconds,
    )
