"""Pushing what `train` saved, as diffusers' training scripts do; refused, if at all, before training."""

from __future__ import annotations

from pathlib import Path

from diffusers_erasure.artifacts.publishing import push_artifact
from diffusers_erasure.artifacts.push_plan import check_repo_id, check_token
from diffusers_erasure.artifacts.upload import check_login
from diffusers_erasure.errors import ArtifactError, ConfigError
from diffusers_erasure.training.config import TrainingConfig

from . import console

FLAGS = ("hub_model_id", "hub_private_repo", "hub_token")
SILENT_TRACKERS = ("jsonl", "tensorboard")
"""Trackers that do not keep the command line, as others do, token and all."""


def check_flags(config: TrainingConfig, folder: Path) -> None:
    """Refuse flags that cannot be met together; asks nobody.

    Raises:
        ConfigError: A flag is without --push_to_hub, the id or the token has the wrong form, or a tracker
            would publish the token.
    """
    if not config.push_to_hub:
        given = [f"--{name}" for name in FLAGS if getattr(config, name)]
        if given:
            raise ConfigError(
                f"{' and '.join(given)} came without --push_to_hub, so nothing would be pushed; expected "
                "both or none; add --push_to_hub, or leave it out"
            )
        return
    check_repo_id(config.hub_model_id or f"you/{folder.name}")
    check_token(config.hub_token)
    telling = [name for name in getattr(config, "report_to", ()) if name not in SILENT_TRACKERS]
    if config.hub_token is not None and telling:
        raise ConfigError(
            f"--hub_token with --report_to {telling[0]}, which may keep the command line with the token in "
            "it; expected a login beforehand; run `hf auth login` and leave --hub_token out"
        )


def target(config: TrainingConfig, folder: Path) -> str | None:
    """Repository that is pushed to, once the Hub took the token; None if nothing is pushed.

    Raises:
        PublishError: There is no login that could push.
    """
    if not config.push_to_hub:
        return None
    account = check_login(config.hub_token)
    return config.hub_model_id or f"{account}/{folder.name}"


def push(config: TrainingConfig, folder: Path, repo_id: str) -> None:
    """Push a saved artifact, and say where it is.

    Raises:
        ArtifactError: The Hub did not take it; the artifact stays where it was saved.
    """
    private = config.hub_private_repo or None
    try:
        address = push_artifact(folder, repo_id, private=private, token=config.hub_token)
    except ArtifactError as error:
        raise type(error)(
            f"{error}; the artifact is saved in {folder}: push it later with "
            f"`diffusers-erasure push {folder} {repo_id}`"
        ) from error
    console.say(f"pushed to {repo_id}: {address}")
