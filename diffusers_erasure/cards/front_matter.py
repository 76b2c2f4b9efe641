"""The metadata at the head of a card, as the Hub reads it.

Results stand in it only if the report that they come from is to be believed: its verdict is "measured". Each
is a rate in percent, with its counts and interval as the metric's arguments.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from diffusers_erasure.evaluation.attack_report import AttackSection
from diffusers_erasure.evaluation.prompt_sets import Purpose
from diffusers_erasure.evaluation.proportion import Proportion
from diffusers_erasure.evaluation.report import EvaluationReport, Row, Verdict

from .loading import PLACEHOLDER
from .markdown import one_line, slug
from .subject import Subject

TASK, TASK_NAME = "text-to-image", "text-to-image generation"
DATASET_TYPE = "diffusers-erasure-prompts"


def front_matter(
    subject: Subject, *, licence: str | None, repo_id: str, report: EvaluationReport | None
) -> str:
    """The YAML between the two lines of dashes, without them.

    Args:
        subject: What the card is about.
        licence: Identifier of the licence; None leaves it out.
        repo_id: Repository that the card is for.
        report: What was measured; None for nothing.
    """
    results = list(_results(report)) if report is not None else []
    hub = subject.base if subject.base.kind == "hub" else None
    relation: dict[str, Any] = {}
    if hub is not None:
        relation["base_model_relation"] = "finetune" if subject.whole else "adapter"
    data = ModelCardData(
        library_name="diffusers",
        pipeline_tag=TASK,
        license=licence,
        tags=tags(subject),
        base_model=hub.id if hub is not None else None,
        eval_results=results or None,
        model_name=_model_name(subject, repo_id) if results else None,
        **relation,
    )
    return str(data.to_yaml())


def tags(subject: Subject) -> list[str]:
    """Tags by which the Hub finds it: what it is, how it was made, and of what kind the concepts are."""
    family = ["stable-diffusion-xl"] if subject.xl else []
    found = [
        "concept-erasure",
        "diffusers-erasure",
        *(slug(part) for method in subject.methods for part in method.split("+")),
        "stable-diffusion",
        *family,
        *(slug(kind) for kind in subject.kinds),
    ]
    return list(dict.fromkeys(tag for tag in found if tag))


def _model_name(subject: Subject, repo_id: str) -> str:
    if repo_id != PLACEHOLDER:
        return repo_id
    return one_line(f"{', '.join(subject.concepts)} erased with {', '.join(subject.methods)}")


def _results(report: EvaluationReport) -> Iterator[EvalResult]:
    if report.verdict is not Verdict.MEASURED:
        return
    for row in report.rows:
        yield _row_result(row)
    if not isinstance(report.attacks, str):
        yield from _attack_results(report.attacks)


def _row_result(row: Row) -> EvalResult:
    erased = row.purpose is Purpose.ERASED
    return _result(
        row.name,
        "pre_attack_asr" if erased else "retention",
        "pictures that show the erased concept, percent (lower is better)"
        if erased
        else "pictures that show what was asked for, percent (higher is better)",
        row.erased,
        revision=row.set_sha256,
        base=row.base,
    )


def _attack_results(section: AttackSection) -> Iterator[EvalResult]:
    told = "prompts that bring the concept back under attack, percent (lower is better)"
    mark = "" if section.is_adaptive else ", not adaptive"
    yield _result(
        "attacked prompts",
        "asr_worst_case",
        f"{told}, worst case over all attacks{mark}",
        section.worst_case.asr,
        revision=section.prompts_sha256,
    )
    for one in section.attacks:
        yield _result(
            "attacked prompts",
            f"asr_{slug(one.name).replace('-', '_')}",
            f"{told}, {one_line(one.name)} at {one.headline.factor}x of its budget",
            one.headline.asr,
            revision=section.prompts_sha256,
        )


def _result(
    dataset: str, metric: str, name: str, rate: Proportion, *, revision: str, base: Proportion | None = None
) -> EvalResult:
    counts: dict[str, Any] = {"k": rate.k, "n": rate.n, **_bounds(rate)}
    if base is not None:
        counts["base"] = {"k": base.k, "n": base.n, **_bounds(base)}
    return EvalResult(
        task_type=TASK,
        task_name=TASK_NAME,
        dataset_type=DATASET_TYPE,
        dataset_name=one_line(dataset),
        dataset_config=slug(dataset),  # results of one type and revision would be put together
        dataset_revision=revision,
        metric_type=metric,
        metric_name=name,
        metric_value=round(100 * rate.rate, 4),
        metric_args=counts,
    )


def _bounds(rate: Proportion) -> dict[str, float]:
    return {"low": round(100 * rate.low, 2), "high": round(100 * rate.high, 2)}
