"""How a run begins: with what would stop it, before its latents are made, and alone in its folder.

Latents alone may take hours, and two runs in one folder would write over each other's checkpoints. A method's
train function is inside `begun` from its first line to its last; the loop enters it too, for tasks that come
from elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from diffusers_erasure.artifacts.manifest import BaseModelRef
from diffusers_erasure.claiming import claimed, holder
from diffusers_erasure.embedded import EMBEDDED_MODEL_ID
from diffusers_erasure.errors import ConfigError, TrainingError

from .agreement import agreed_settings
from .checkpoint import LATEST, CheckpointFolder, agreed_in, check_agrees
from .settings import GradientTrainingConfig, TrainingSettings
from .trackers import known_trackers

_HELD: ContextVar[frozenset[Path]] = ContextVar("_HELD", default=frozenset())
"""Folders that an outer `begun` holds."""


@contextmanager
def begun(settings: TrainingSettings) -> Iterator[None]:
    """Be the only run in its folder, once nothing speaks against it.

    Of several processes that share a run, the first holds the folder for all.

    Args:
        settings: Of the run.

    Raises:
        ConfigError: See `check_begins`.
        MissingDependencyError: See there.
        TrainingError: See there; or another run is going on in the folder.
    """
    folder = settings.run_folder.absolute() if settings.run_folder else None
    held = _HELD.get()
    if folder in held:
        yield
        return
    check_begins(settings)
    if folder is None or os.environ.get("RANK", "0") != "0":
        yield
        return
    with claimed(folder) as lock:
        if lock is None:
            raise TrainingError(
                f"another run is going on in {folder} ({holder(folder)}); expected one run at a time, since "
                "two would write over each other's checkpoints; wait for it, stop it, or give another "
                "output_dir"
            )
        token = _HELD.set(held | {folder})
        try:
            yield
        finally:
            _HELD.reset(token)


def check_base(config: GradientTrainingConfig, base: BaseModelRef) -> None:
    """Refuse settings that were filled in for the embedded pipeline where another one is trained.

    Args:
        config: Settings.
        base: What the artifact will say that it was made on.

    Raises:
        ConfigError: They were.
    """
    if config.preset == config.pretrained_model_name_or_path == EMBEDDED_MODEL_ID != base.id:
        raise ConfigError(
            f"the settings are those for the embedded pipeline, and the base is {base.id!r}; expected "
            f"settings for that base; give pretrained_model_name_or_path={base.id!r} where they are made"
        )


def check_begins(settings: TrainingSettings) -> None:
    """Refuse a run that could not begin, or go on, once its latents are there.

    Args:
        settings: Of the run.

    Raises:
        ConfigError: It is to be resumed without a folder, or a tracker is unknown or has no folder.
        MissingDependencyError: A tracker's package is not installed.
        TrainingError: There is no such checkpoint, it belongs to a run with other settings, or an earlier
            run's lie where this one would write.
    """
    known_trackers(settings.report_to, settings.log_folder)
    checkpoint = checkpoint_to_resume(settings)
    if checkpoint is None:
        return
    wanted = agreed_settings(settings)
    found = agreed_in(checkpoint)
    check_agrees({name: found.get(name) for name in wanted}, wanted, origin=checkpoint)


def checkpoint_to_resume(settings: TrainingSettings) -> Path | None:
    """The checkpoint that a run goes on from; None if it begins.

    Raises:
        ConfigError: It is to be resumed without a folder to look in.
        TrainingError: There is no such checkpoint, or an earlier run's lie where this one would write.
    """
    wanted = settings.resume_from_checkpoint
    if wanted == LATEST and settings.run_folder is None:
        raise ConfigError(
            f"resume_from_checkpoint is {LATEST!r}, but the run has no output_dir to look in; expected "
            f"both or neither; give output_dir, or the folder of a checkpoint"
        )
    folder = CheckpointFolder(settings.run_folder or Path())
    if wanted:
        return folder.find(wanted)
    there = folder.paths() if settings.run_folder else ()
    if there and not settings.overwrite:
        raise TrainingError(
            f"{folder.folder} holds checkpoints of an earlier run (the last is {there[-1].name}); "
            f"expected none, or to be told to go on; pass resume_from_checkpoint latest, or overwrite to "
            f"begin anew"
        )
    return None
