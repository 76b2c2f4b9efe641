"""Evaluate one artifact: load it, prove that it is active, measure every prompt set, write report and grid.

    evaluate_artifact    from a folder or Hub id to `evaluation.json` and `grid.png`
    evaluate_pipelines   the same for two pipelines that are loaded already, with prompt sets and judges of
    your own

A run that is interrupted keeps every finished picture in `pictures/` beside its report, and every finished
outcome of an attack in `attacks/`, and goes on from there. The report itself is written once, at the end, or
not at all.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from diffusers_erasure.artifacts.apply import load_erasure
from diffusers_erasure.artifacts.artifact import Artifact
from diffusers_erasure.artifacts.door import load_artifact
from diffusers_erasure.artifacts.method_names import told
from diffusers_erasure.diffusion.pictures import png_bytes
from diffusers_erasure.durable import write_whole
from diffusers_erasure.errors import ConfigError, EvaluationError
from diffusers_erasure.pipelines.base import load_base_pipeline
from diffusers_erasure.pipelines.verifying import verify_erasure

from .asking import check_judges, plan_and_panel
from .attack_evaluation import (
    OUTCOMES_NAME,
    PLOT_NAME,
    UnderAttack,
    attack_plot,
    evaluate_attacks,
    with_attacks,
)
from .attack_grid import comparison_grid
from .attack_groups import Group, attack_groups, validate_judges
from .attack_settings import AttackSettings
from .confusion import JudgeValidation
from .fidelity_measure import measure_fidelity
from .generate import DEFAULT_BATCH_SIZE, Artist, Sampling, sampling_defaults
from .judges import Panel
from .measure import Measured, measure_set
from .metrics.extractors import Extractor
from .prompt_plan_file import PlanFile
from .prompt_sets import FIRST_TEST_SEED, PromptPlan, PromptSet, check_first_seed
from .report import EvaluationReport, SamplingRecord
from .report_building import Found, build_report, erasure_record
from .splits import SplitRecord, check_disjoint, note_test_read, split_record, training_prompts
from .subject import Subject, sibling

logger = logging.getLogger(__name__)

REPORT_NAME = "evaluation.json"
GRID_NAME = "grid.png"
RETENTION_FLOOR = 0.8
"""Share of the base's rate below which an erasure has broken the rest; fixed before anything was measured.

What counts as kept is stricter: `records.RETENTION_MARGIN`.
"""

__all__ = [
    "GRID_NAME",
    "OUTCOMES_NAME",
    "PLOT_NAME",
    "REPORT_NAME",
    "Evaluation",
    "EvaluationSettings",
    "Subject",
    "comparison_grid",
    "evaluate_artifact",
    "evaluate_pipelines",
    "sibling",
]

SetProgress = Callable[[str, int, int], None]
"""Called with a set's name, the pictures that are there, and those that it needs."""


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation leaves behind.

    Attributes:
        report: The figures.
        measured: Every row with its pictures.
        folder: Where report and grid lie.
        attacked: What attacks did, if there were any.
    """

    report: EvaluationReport
    measured: tuple[Measured, ...]
    folder: Path
    attacked: UnderAttack | None = None


@dataclass(frozen=True)
class EvaluationSettings:
    """How an evaluation is run; every field has a default that a published figure can use.

    Attributes:
        n: Pictures per set and pipeline; None draws 100, or each prompt of a file once.
        prompts: Prompt sets of your own, `PlanFile.read("sets.csv")`, for `evaluate_artifact`; those of the
            embedded vocabulary unless given.
        retention_judge: Who answers for what should stay, where the concept's judge cannot name it; only with
            `prompts`.
        first_seed: Seeds of the pictures start here.
        sampling: Steps and guidance scale; None takes what suits the base model.
        batch_size: Pictures drawn together.
        retention_floor: Share of the base's rate that must be kept.
        cell: Side of a picture in the grid.
        attacks: What to attack with; None leaves attacks "not measured".
        extractor: Makes the features of the fidelity; None takes the concept judge's, if it offers them.
    """

    n: int | None = None
    prompts: PlanFile | None = None
    retention_judge: str | None = None
    first_seed: int = FIRST_TEST_SEED
    sampling: Sampling | None = None
    batch_size: int = DEFAULT_BATCH_SIZE
    retention_floor: float = RETENTION_FLOOR
    cell: int = 128
    attacks: AttackSettings | None = None
    extractor: Extractor | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn or reported."""
        check_first_seed(self.first_seed)


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
        ConfigError: The judge names labels that nobody can use, there is no such judge, or a row of your
            prompt sets cannot be used.
        EvaluationError: There are no prompts for what was erased, training may have seen one of them, or no
            judge knows a label.
        ErasureNotActiveError: The erasure is not verified, before or after drawing; there is no report then.
    """
    settings = settings or EvaluationSettings()
    check_judges(judge, settings.retention_judge, own_prompts=settings.prompts is not None)
    artifact = source if isinstance(source, Artifact) else load_artifact(source)
    plan, panel = plan_and_panel(
        artifact.manifest.concepts,
        settings.prompts,
        judge=judge,
        retention_judge=settings.retention_judge,
        n=settings.n,
        first_seed=settings.first_seed,
        device=device,
    )
    _check_splits(artifact, plan)
    model = base or artifact.manifest.base.id
    stock = load_base_pipeline(model).to(device)
    erased = sibling(stock)
    load_erasure(erased, artifact)
    return evaluate_pipelines(
        Subject(stock, erased, artifact, model),
        plan=plan,
        panel=panel,
        output_dir=output_dir,
        settings=replace(settings, prompts=None, retention_judge=None),
        cache_dir=cache_dir,
        progress=progress,
    )


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

    Raises:
        ConfigError: The settings bring prompts or a judge, which `plan` and `panel` already are.
        EvaluationError: Training may have seen a prompt of the plan.
        ErasureNotActiveError: The erasure is not verified, before or after drawing; there is no report then.
    """
    settings = settings or EvaluationSettings()
    if settings.prompts is not None or settings.retention_judge is not None:
        raise ConfigError(
            "the settings bring prompts or a retention_judge beside a plan and a panel; expected them in "
            "plan and panel alone; make both with plan_and_panel, or call evaluate_artifact"
        )
    folder = Path(output_dir)
    started = time.monotonic()
    splits = _splits(subject.artifact, plan)
    before = verify_erasure(subject.erased, subject.artifact)
    before.raise_unless_verified()
    cache = Path(cache_dir or folder / "pictures")
    measured = _measure(_artists(subject, settings, cache), plan, panel, settings, progress)
    fidelity = measure_fidelity(measured, panel, settings.extractor)
    groups = attack_groups(plan.sets[0], panel, limit=_limit(settings))
    validation = validate_judges(groups, measured)
    attacked = _attack(subject, groups, settings, validation, _outcome_folder(folder, cache_dir), progress)
    after = verify_erasure(subject.erased, subject.artifact)
    after.raise_unless_verified()
    found = Found(measured, fidelity, attacked, splits, validation)
    report = build_report(
        found,
        plan,
        panel,
        erasure=erasure_record(subject, before.state, after.state),
        settings=_settings_record(subject, plan, measured, settings),
        seconds=time.monotonic() - started,
    )
    _write_pictures(folder, found, subject.artifact, settings)
    write_whole(folder / REPORT_NAME, report.to_json().encode())
    return Evaluation(report, measured, folder, attacked)


def _outcome_folder(folder: Path, cache_dir: str | Path | None) -> Path:
    return (folder if cache_dir is None else Path(cache_dir)) / "attacks"


def _limit(settings: EvaluationSettings) -> int | None:
    return settings.attacks.prompts if settings.attacks else None


def _check_splits(artifact: Artifact, plan: PromptPlan) -> tuple[str, ...]:
    """The prompts that were trained on; refused if one of the plan is among them."""
    train = training_prompts(artifact.manifest.concepts, artifact.manifest.settings)
    check_disjoint(plan.prompts, (*train, *plan.dev))
    return train


def _splits(artifact: Artifact, plan: PromptPlan) -> tuple[SplitRecord, ...]:
    """Digests of what was trained and is tested on."""
    records = [split_record("train", _check_splits(artifact, plan)), split_record("test", plan.prompts)]
    if plan.dev:
        records.insert(1, split_record("dev", plan.dev))
    note_test_read(records[-1])
    return tuple(records)


def _attack(
    subject: Subject,
    groups: tuple[Group, ...],
    settings: EvaluationSettings,
    validation: tuple[JudgeValidation, ...],
    store: Path,
    progress: SetProgress | None,
) -> UnderAttack | None:
    if settings.attacks is None:
        return None
    return evaluate_attacks(
        subject,
        groups,
        settings.attacks,
        _sampling(subject.model, settings),
        validation=validation,
        store=store,
        picture_batch=settings.batch_size,
        tell=progress,
    )


def _write_pictures(folder: Path, found: Found, artifact: Artifact, settings: EvaluationSettings) -> None:
    grid = comparison_grid(found.measured, artifact, cell=settings.cell)
    if found.attacked is not None:
        grid = with_attacks(grid, found.attacked, found.measured[0], cell=settings.cell)
        write_whole(folder / OUTCOMES_NAME, found.attacked.findings.outcomes)
        names = ", ".join(artifact.manifest.concept_names)
        plot = attack_plot(found.attacked, title=f"{told(artifact.manifest.method)} erases {names}")
        if plot is not None:
            write_whole(folder / PLOT_NAME, plot)
        else:
            logger.warning("%s is not drawn: it needs matplotlib, from diffusers-erasure[eval]", PLOT_NAME)
    write_whole(folder / GRID_NAME, png_bytes(grid))


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


def _settings_record(
    subject: Subject, plan: PromptPlan, measured: Sequence[Measured], settings: EvaluationSettings
) -> SamplingRecord:
    sampling = _sampling(subject.model, settings)
    height, width = measured[0].erased.shape[2:]
    return SamplingRecord(
        steps=sampling.steps,
        guidance_scale=sampling.guidance_scale,
        pictures_per_set=max(len(result.prompt_set.items) for result in measured),
        prompt_file=plan.source,
        first_seed=settings.first_seed,
        picture_size=(height, width),
        dtype=str(subject.erased.unet.dtype).removeprefix("torch."),
        device=str(subject.erased.device),
    )
