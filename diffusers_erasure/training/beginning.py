"""What stops a run, looked at before anything is computed for it: latents alone may take hours."""

from __future__ import annotations

from pathlib import Path

from diffusers_erasure.errors import ConfigError, TrainingError

from .agreement import agreed_settings
from .checkpoint import LATEST, CheckpointFolder, agreed_in, check_agrees
from .settings import TrainingSettings
from .trackers import known_trackers


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
