"""Loading a base pipeline: stock and un-erased, with errors that say what to do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline

from diffusers_erasure.artifacts.hub import is_repo_id
from diffusers_erasure.artifacts.manifest import MANIFEST_NAME
from diffusers_erasure.embedded import EMBEDDED_MODEL_ID, resolve_model
from diffusers_erasure.errors import ArtifactFormatError, ArtifactNotFoundError

INDEX_FILE = "model_index.json"


def load_base_pipeline(
    name_or_path: str | Path = EMBEDDED_MODEL_ID,
    *,
    revision: str | None = None,
    dtype: torch.dtype | Mapping[str, torch.dtype] = torch.float32,
    **hub_options: Any,
) -> StableDiffusionPipeline:
    """The pipeline that a method erases from and that an erased one is compared with.

    Args:
        name_or_path: Folder, Hub id, or "embedded" for the pipeline that comes with this package.
        revision: Branch, tag or commit on the Hub.
        dtype: Floating dtype of all components; or of each by name, "default" of those that are not named.
        hub_options: Further arguments of `StableDiffusionPipeline.from_pretrained` (`token`, `cache_dir`,
            `local_files_only`, `variant`, ...).
    """
    place = resolve_base(name_or_path)
    wanted = dict(dtype) if isinstance(dtype, Mapping) else dtype
    try:
        pipe = StableDiffusionPipeline.from_pretrained(place, revision=revision, dtype=wanted, **hub_options)
    except (OSError, ValueError) as error:
        raise unreadable_base(name_or_path, error) from error
    if not isinstance(pipe, StableDiffusionPipeline):
        raise ArtifactFormatError(
            f"{name_or_path} is a {type(pipe).__name__}; expected a Stable Diffusion text-to-image pipeline; "
            "give another base model"
        )
    return pipe


def resolve_base(name_or_path: str | Path) -> str:
    """Folder or Hub id of a base pipeline; what can be neither is refused before anything is loaded."""
    place = resolve_model(str(name_or_path))
    folder = Path(place).expanduser()
    if folder.is_dir():
        if (folder / INDEX_FILE).is_file():
            return str(folder)
        if (folder / MANIFEST_NAME).is_file():
            raise ArtifactFormatError(
                f"{folder} is an erasure artifact, not a base pipeline; expected a folder with {INDEX_FILE}; "
                "load it with ErasedStableDiffusionPipeline.from_pretrained, or give the base model"
            )
        raise ArtifactNotFoundError(
            f"{folder} has no {INDEX_FILE}; expected a pipeline's folder; give the one that save_pretrained "
            "wrote"
        )
    if not is_repo_id(place):
        raise ArtifactNotFoundError(
            f"{str(name_or_path)!r} is neither a folder nor a Hub id; expected a pipeline's folder, an id "
            f"such as org/name, or {EMBEDDED_MODEL_ID!r}; check the spelling and the working directory"
        )
    return place


def unreadable_base(name_or_path: str | Path, error: Exception) -> ArtifactNotFoundError:
    """The error for a base pipeline that diffusers could not load."""
    return ArtifactNotFoundError(
        f"the base model {str(name_or_path)!r} could not be loaded ({type(error).__name__}: "
        f"{str(error)[:300]}); expected a complete Stable Diffusion pipeline; check the id and the "
        "connection, or download it again"
    )
