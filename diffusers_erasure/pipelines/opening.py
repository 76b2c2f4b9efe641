"""What the first argument of `from_pretrained` names: a base, an artifact, or a pipeline saved erased."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from diffusers_erasure.artifacts.artifact import Artifact
from diffusers_erasure.artifacts.door import load_artifact
from diffusers_erasure.artifacts.hub import is_repo_id
from diffusers_erasure.artifacts.jsontext import parse_json
from diffusers_erasure.embedded import EMBEDDED_MODEL_ID, resolve_model
from diffusers_erasure.encoders.source import EncoderSource
from diffusers_erasure.errors import ArtifactFormatError, ArtifactNotFoundError

from .baked import BakedRecord, read_baked
from .base import INDEX_FILE

MAX_INDEX_BYTES = 4_000_000
HUB_OPTIONS = ("token", "cache_dir", "local_files_only", "force_download")


@dataclass(frozen=True)
class Opened:
    """What was found.

    Attributes:
        kind: What the source is.
        base: Folder or Hub id to load the pipeline from.
        revision: Its revision.
        artifact: The artifact, if the source is one.
        baked: What was saved, if the source is a pipeline that was saved erased.
    """

    kind: Literal["base", "artifact", "baked"]
    base: str
    revision: str | None
    artifact: Artifact | None = None
    baked: BakedRecord | None = None


def open_source(
    source: str | Path, *, revision: str | None, subfolder: str | None, hub_options: dict[str, Any]
) -> Opened:
    """Find out what a source is, reading only its index or its manifest and edits.

    Args:
        source: First argument of `from_pretrained`.
        revision: Revision of that repository.
        subfolder: Folder of an artifact inside it.
        hub_options: How to reach the Hub.
    """
    place = resolve_model(str(source))
    if not Path(place).expanduser().exists() and not is_repo_id(place):
        raise ArtifactNotFoundError(
            f"{str(source)!r} is neither a folder nor a Hub id; expected a base pipeline, an artifact, a "
            f"pipeline that was saved erased, or {EMBEDDED_MODEL_ID!r}; check the spelling and the working "
            "directory"
        )
    files = EncoderSource.find(place, "", revision, **hub_options)
    if files.has(INDEX_FILE):
        path = files.path(INDEX_FILE)
        where = files.describe(INDEX_FILE)
        with path.open("rb") as file:
            index = parse_json(file.read(MAX_INDEX_BYTES + 1), origin=where, max_bytes=MAX_INDEX_BYTES)
        if not isinstance(index, dict):
            raise ArtifactFormatError(
                f"{where} holds no JSON object; expected a pipeline's index; download it again"
            )
        baked = read_baked(index, where=where)
        return Opened("base" if baked is None else "baked", place, files.revision or revision, baked=baked)
    artifact = load_artifact(place, subfolder=subfolder, revision=revision, **hub_options)
    base = artifact.manifest.base
    return Opened("artifact", resolve_model(base.id), base.revision, artifact=artifact)
