"""Evaluate one artifact: load it, prove that it is active, measure every prompt set, write report and grid.

    evaluate_artifact    from a folder or Hub id to `evaluation.json` and `grid.png`
    evaluate_pipelines   the same for two pipelines that are loaded already, with prompt sets and judges of
    your own

A run that is interrupted keeps every finished picture in `pictures/` beside its report and goes on from
there. The report itself is written once, at the end, or not at all.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from PIL import Image

from diffusers_erasure._version import __version__
from diffusers_erasure.artifacts.apply import list_erasures, load_erasure
from diffusers_erasure.artifacts.artifact import Artifact
from diffusers_erasure.artifacts.door import load_artifact
from diffusers_erasure.artifacts.verify import verify_erasure
from diffusers_erasure.errors import EvaluationError
from diffusers_erasure.pipelines.base import load_base_pipeline

from .embedded_prompts import embedded_prompt_plan
from .generate import DEFAULT_BATCH_SIZE, Artist, Sampling, sampling_defaults
from .grid import Column, make_grid
from .judges import Judge, Panel, load_panel
from .measure import Measured, measure_controls, measure_set
from .pictures import png_bytes, write_atomically
from .prompt_sets import FIRST_TEST_SEED, PromptPlan, PromptSet
from .report import ErasureRecord, EvaluationReport, JudgeRecord, Row, Settings, overall_verdict

logger = logging.getLogger(__name__)

REPORT_NAME = "evaluation.json"
GRID_NAME = "grid.png"
RETENTION_FLOOR = 0.8
"""Share of the base's rate that an erasure must keep; fixed before anything was measured."""
GRID_COLUMNS = 2
"""Pictures of each set that the grid shows."""

SetProgress = Callable[[str, int, int], None]
"""Called with a set's name, the pictures that are there, and those that it needs."""


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation leaves behind.

    Attributes:
        report: The figures.
        measured: Every row with its pictures.
        folder: Where report and grid lie.
    """

    report: EvaluationReport
    measured: tuple[Measured, ...]
    folder: Path


@dataclass(frozen=True)
class Subject:
    """What is compared.

    Attributes:
        base: Pipeline without the erasure.
        erased: Pipeline in which the artifact is loaded.
        artifact: What is loaded there.
        model: Name of the base model, for the report.
    """

    base: Any
    erased: Any
    artifact: Artifact
    model: str


@dataclass(frozen=True)
class EvaluationSettings:
    """How an evaluation is run; every field has a default that a published figure can use.

    Attributes:
        n: Pictures per set and pipeline.
        first_seed: Seeds of the pictures start here.
        sampling: Steps and guidance scale; None takes what suits the base model.
        batch_size: Pictures drawn together.
        retention_floor: Share of the base's rate that must be kept.
        cell: Side of a picture in the grid.
    """

    n: int = 100
    first_seed: int = FIRST_TEST_SEED
    sampling: Sampling | None = None
    batch_size: int = DEFAULT_BATCH_SIZE
    retention_floor: float = RETENTION_FLOOR
    cell: int = 128


def evaluate_artifact(
    source: str | Path | Artifact,
    *,
    output_dir: str | Path,
    base: str | None = None,
    judge: str = "embedded",
    settings: EvaluationSettings | None = None,
    device: str = "cpu",
    cache_dir: str | Path | None = None,
    progress: SetProgress | None = None,
) -> Evaluation:
    """Measure what an artifact erases and what it keeps.

    Args:
        source: Folder or Hub id of the artifact, or the loaded artifact.
        output_dir: Gets `evaluation.json` and `grid.png`.
        base: Base model; the one that the artifact names unless given.
        judge: Family of the judges.
        settings: How to run it.
        device: Where to draw.
        cache_dir: Where pictures are kept; `pictures/` in `output_dir` unless given.
        progress: Told about every batch.

    Raises:
        ErasureNotActiveError: The erasure is not verified, before or after drawing; there is no report then.
    """
    settings = settings or EvaluationSettings()
    artifact = source if isinstance(source, Artifact) else load_artifact(source)
    plan = embedded_prompt_plan(artifact.manifest.concepts, n=settings.n, first_seed=settings.first_seed)
    panel = load_panel(judge, device=device)
    model = base or artifact.manifest.base.id
    stock = load_base_pipeline(model).to(device)
    erased = sibling(stock)
    load_erasure(erased, artifact)
    return evaluate_pipelines(
        Subject(stock, erased, artifact, model),
        plan=plan,
        panel=panel,
        output_dir=output_dir,
        settings=settings,
        cache_dir=cache_dir,
        progress=progress,
    )


def sibling(pipe: Any) -> Any:
    """A second pipeline on the same components; loading an erasure into it leaves the first alone."""
    copy = type(pipe)(**pipe.components, requires_safety_checker=pipe.config.requires_safety_checker)
    copy.set_progress_bar_config(**getattr(pipe, "_progress_bar_config", {}))
    return copy


def evaluate_pipelines(
    subject: Subject,
    *,
    plan: PromptPlan,
    panel: Panel,
    output_dir: str | Path,
    settings: EvaluationSettings | None = None,
    cache_dir: str | Path | None = None,
    progress: SetProgress | None = None,
) -> Evaluation:
    """Measure an erased pipeline against its base; see `evaluate_artifact`.

    Args:
        subject: The two pipelines and the artifact.
        plan: What to draw and to ask.
        panel: Who answers.
        output_dir: Gets `evaluation.json` and `grid.png`.
        settings: How to run it.
        cache_dir: Where pictures are kept; `pictures/` in `output_dir` unless given.
        progress: Told about every batch.
    """
    settings = settings or EvaluationSettings()
    folder = Path(output_dir)
    started = time.monotonic()
    before = verify_erasure(subject.erased, subject.artifact)
    before.raise_unless_verified()
    artists = _artists(subject, settings, Path(cache_dir or folder / "pictures"))
    measured = _measure(artists, plan, panel, settings, progress)
    after = verify_erasure(subject.erased, subject.artifact)
    after.raise_unless_verified()
    report = _report(
        measured,
        plan,
        panel,
        erasure=_erasure_record(subject, before.state, after.state),
        settings=_settings_record(subject, measured, settings),
        seconds=time.monotonic() - started,
    )
    grid = comparison_grid(measured, subject.artifact, cell=settings.cell)
    write_atomically(folder / GRID_NAME, png_bytes(grid))
    write_atomically(folder / REPORT_NAME, report.to_json().encode())
    return Evaluation(report, measured, folder)


def _sampling(model: str, settings: EvaluationSettings) -> Sampling:
    return settings.sampling or sampling_defaults(model)


def _artists(subject: Subject, settings: EvaluationSettings, cache: Path) -> tuple[Artist, Artist]:
    sampling = _sampling(subject.model, settings)
    base, erased = (
        Artist(pipe, sampling, settings.batch_size, cache) for pipe in (subject.base, subject.erased)
    )
    return base, erased


def _measure(
    artists: tuple[Artist, Artist],
    plan: PromptPlan,
    panel: Panel,
    settings: EvaluationSettings,
    progress: SetProgress | None,
) -> tuple[Measured, ...]:
    if not plan.sets or plan.sets[0].name != "own name":
        raise EvaluationError(
            f"the plan's first prompt set is {plan.sets[0].name if plan.sets else 'missing'!r}; expected "
            "'own name', which is the positive control too; put the concept's own prompts first"
        )
    return tuple(
        measure_set(
            prompt_set,
            *artists,
            panel,
            retention_floor=settings.retention_floor,
            progress=_named(progress, prompt_set),
        )
        for prompt_set in plan.sets
    )


def _named(progress: SetProgress | None, prompt_set: PromptSet) -> Callable[[int, int], None] | None:
    if progress is None:
        return None
    return lambda done, total: progress(prompt_set.name, done, total)


def _report(
    measured: Sequence[Measured],
    plan: PromptPlan,
    panel: Panel,
    *,
    erasure: ErasureRecord,
    settings: Settings,
    seconds: float,
) -> EvaluationReport:
    rows = tuple(result.row for result in measured)
    control = measure_controls(rows[0], plan.sets[0], panel, settings.picture_size)
    missing = {
        **plan.not_measured,
        "fidelity": "no FID-like distance or CLIP-like agreement was computed",
    }
    return EvaluationReport(
        verdict=overall_verdict(rows, control),
        erasure=erasure,
        rows=rows,
        control=control,
        judges=tuple(judge_record(judge) for judge in panel.members),
        settings=settings,
        not_measured=missing,
        seconds=round(seconds, 1),
        versions={
            "diffusers_erasure": __version__,
            **{name: version(name) for name in ("torch", "diffusers", "transformers")},
        },
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def judge_record(judge: Judge) -> JudgeRecord:
    """What a report says about a judge."""
    return JudgeRecord(name=judge.name, version=judge.version, sha256=judge.sha256, threshold=judge.threshold)


def _erasure_record(subject: Subject, before: str, after: str) -> ErasureRecord:
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
        state_before=str(before),
        state_after=str(after),
    )


def _settings_record(
    subject: Subject, measured: Sequence[Measured], settings: EvaluationSettings
) -> Settings:
    sampling = _sampling(subject.model, settings)
    height, width = measured[0].erased.shape[2:]
    return Settings(
        steps=sampling.steps,
        guidance_scale=sampling.guidance_scale,
        pictures_per_set=settings.n,
        first_seed=settings.first_seed,
        picture_size=(height, width),
        dtype=str(subject.erased.unet.dtype).removeprefix("torch."),
        device=str(subject.erased.device),
    )


def comparison_grid(
    measured: Sequence[Measured], artifact: Artifact, *, cell: int = 128, columns: int = GRID_COLUMNS
) -> Image.Image:
    """The first pictures of every set, before and after: chosen by their place, not by their looks."""
    shown = [
        Column(
            caption=result.prompt_set.items[index].prompt,
            pictures=(result.base[index], result.erased[index]),
            group=_heading(result.row),
        )
        for result in measured
        for index in range(min(columns, len(result.prompt_set.items)))
    ]
    names = ", ".join(artifact.manifest.concept_names)
    return make_grid(
        shown,
        ["before", "after"],
        title=f"{artifact.manifest.method.upper()} erases {names}",
        footer="Same prompts and seeds in both rows, the first of each set. Over each set: in how many "
        "pictures the judge sees what was asked for, before and after.",
        cell=cell,
        per_band=3 * columns,
    )


def _heading(row: Row) -> str:
    return f"{row.name}: {row.base.k} to {row.erased.k} of {row.base.n}"
