"""From what an evaluation found to its report."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version

from diffusers_erasure._version import __version__
from diffusers_erasure.artifacts.apply import list_erasures

from .attack_evaluation import UnderAttack
from .confusion import JudgeValidation
from .fidelity import Fidelity
from .generate import is_embedded
from .judges import Judge, Panel
from .measure import Measured, measure_controls
from .prompt_sets import PromptPlan
from .records import NOT_MEASURED, NotMeasured, refusing
from .report import (
    OTHER_SCOPE,
    SCOPE,
    ErasureRecord,
    EvaluationReport,
    JudgeRecord,
    SamplingRecord,
    overall_verdict,
    report_rules,
)
from .splits import SplitRecord
from .subject import Subject


@dataclass(frozen=True)
class Found:
    """What an evaluation found, before it is a report.

    Attributes:
        measured: Every prompt set with its counts and pictures.
        fidelity: How near the pictures of what should stay are to the base's; or "not measured" and why.
        attacked: What attacks did, if there were any.
        splits: Digests of the prompts.
        validation: Confusion matrices of the judges.
    """

    measured: tuple[Measured, ...]
    fidelity: tuple[Fidelity | NotMeasured, str]
    attacked: UnderAttack | None
    splits: tuple[SplitRecord, ...]
    validation: tuple[JudgeValidation, ...]


def build_report(
    found: Found,
    plan: PromptPlan,
    panel: Panel,
    *,
    erasure: ErasureRecord,
    settings: SamplingRecord,
    seconds: float,
) -> EvaluationReport:
    """Put a report together.

    Args:
        found: What was measured.
        plan: What was drawn and asked.
        panel: Who answered.
        erasure: What was evaluated.
        settings: How the pictures were made.
        seconds: How long it took.

    Raises:
        EvaluationError: The figures contradict each other.
    """
    rows = tuple(result.row for result in found.measured)
    attacks = found.attacked.findings.section if found.attacked else NOT_MEASURED
    control = measure_controls(rows[0], plan.sets[0], panel, settings.picture_size)
    fidelity, reason = found.fidelity
    with refusing("what was measured"):
        return EvaluationReport(
            verdict=overall_verdict(rows, control, attacks),
            erasure=erasure,
            rows=rows,
            control=control,
            judges=tuple(judge_record(judge) for judge in panel.members),
            settings=settings,
            not_measured={**plan.not_measured, **({"fidelity": reason} if reason else {})},
            attacks=attacks,
            fidelity=fidelity,
            rules=report_rules(rows, control, attacks, erasure),
            splits=found.splits,
            validation=found.validation or NOT_MEASURED,
            seconds=round(seconds, 1),
            versions={
                "diffusers_erasure": __version__,
                **{name: version(name) for name in ("torch", "diffusers", "transformers")},
            },
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            scope=SCOPE if is_embedded(erasure.base) else OTHER_SCOPE,
        )


def judge_record(judge: Judge) -> JudgeRecord:
    """What a report says about a judge."""
    return JudgeRecord(name=judge.name, version=judge.version, sha256=judge.sha256, threshold=judge.threshold)


def erasure_record(subject: Subject, before: str, after: str) -> ErasureRecord:
    """What a report says about the erasure.

    Args:
        subject: What was evaluated.
        before: Its state before anything was drawn.
        after: Its state after everything was.
    """
    artifact, manifest = subject.artifact, subject.artifact.manifest
    applied = next((one for one in list_erasures(subject.erased) if one.digest == artifact.digest), None)
    return ErasureRecord(
        digest=artifact.digest,
        method=manifest.method,
        concepts=manifest.concept_names,
        base=subject.model,
        base_revision=manifest.base.revision if subject.model == manifest.base.id else None,
        scale=applied.scale if applied else 1.0,
        transfer=bool(applied and applied.transfer),
        training_seed=manifest.known_seed,
        state_before=str(before),
        state_after=str(after),
    )
