"""From a task to an artifact: the way that every method goes that is trained by gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from diffusers import DiffusionPipeline

from diffusers_erasure.artifacts.artifact import Artifact, build_artifact
from diffusers_erasure.artifacts.canary import choose_prompts
from diffusers_erasure.artifacts.edits import DeltaEdit
from diffusers_erasure.artifacts.manifest import BaseModelRef, SettingRecord
from diffusers_erasure.prompts import world_of

from .callbacks import ReportProgress
from .config import Progress, ProgressCallback
from .loop import TrainingTask, run_training
from .registry import method as registered
from .settings import GradientTrainingConfig
from .student import Student
from .validation import validation_watchers


class ErasureTask(TrainingTask, Protocol):
    """A task that knows whose weights it trains, and the wordings of what it erases."""

    student: Student
    prompts: tuple[str, ...]


def train_to_artifact(
    pipe: DiffusionPipeline,
    task: ErasureTask,
    config: GradientTrainingConfig,
    *,
    method: str,
    base: BaseModelRef,
    progress: ProgressCallback,
    settings: Mapping[str, SettingRecord] | None = None,
    already: DeltaEdit | None = None,
) -> Artifact:
    """Train, watched as the settings say, and put what changed into an artifact.

    Args:
        pipe: Base pipeline; read, not changed.
        task: What is trained.
        config: Settings of the method.
        method: Its name.
        base: How the artifact names the base model.
        progress: Called as the run goes on.
        settings: What the manifest records of them; `config.records()` unless given.
        already: What of the same component was changed before training; what training changes comes on top.

    Raises:
        ConfigError: Nothing changed.
        TrainingError: The run diverges, or a checkpoint belongs to another run.
        TrainingStopped: A signal asked to stop; the run is saved.
    """
    grids = validation_watchers(pipe, task.student, config, world=world_of(base.id))
    outcome = run_training(task, config, [ReportProgress(progress), *grids])
    progress(Progress("artifact", 0, 1))
    trained = task.student.edit(config.artifact_dtype)
    edit = trained if already is None else _added(already, trained)
    artifact = build_artifact(
        pipe,
        {task.student.component: edit},
        method=method,
        method_version=registered(method).version,
        settings=config.records() if settings is None else settings,
        concepts=config.concepts,
        base=base,
        seed=config.seed,
        steps=outcome.steps,
        canary_prompts=choose_prompts(task.prompts),
    )
    progress(Progress("artifact", 1, 1))
    return artifact


def _added(before: DeltaEdit, after: DeltaEdit) -> DeltaEdit:
    """One edit for two, of which the second was made on weights that had the first."""
    deltas = {**before.deltas, **after.deltas}
    for name in before.deltas.keys() & after.deltas.keys():
        both = before.deltas[name].double() + after.deltas[name].double()
        deltas[name] = both.to(after.deltas[name].dtype)
    return DeltaEdit(deltas)
