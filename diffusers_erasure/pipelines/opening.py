"""What the first argument of `from_pretrained` names: a base, an artifact, or a pipeline saved erased."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from diffusers_erasure.artifacts.apply import ERASABLE
from diffusers_erasure.artifacts.artifact import Artifact
from diffusers_erasure.artifacts.door import load_artifact
from diffusers_erasure.artifacts.hub import is_repo_id
from diffusers_erasure.artifacts.record import record_of
from diffusers_erasure.artifacts.signature import TrustedKey
from diffusers_erasure.embedded import EMBEDDED_MODEL_ID, embedded_folder, resolve_model
from diffusers_erasure.encoders.seal import seal_of
from diffusers_erasure.encoders.source import EncoderSource
from diffusers_erasure.errors import (
    ArtifactFormatError,
    ArtifactNotFoundError,
    ConfigError,
    ErasureRequiredError,
    SignatureError,
)

from .baked import BakedRecord, read_baked
from .base import stock_parent
from .index import erased_class_name, is_xl, read_index

PACKAGE = __name__.partition(".")[0]


@dataclass(frozen=True)
class Opened:
    """What was found.

    Attributes:
        kind: What the source is.
        base: Folder or Hub id to load the pipeline from.
        revision: Its revision.
        artifact: The artifact, if the source is one.
        baked: What was saved, if the source is a pipeline that was saved erased.
        class_name: Class that the pipeline was saved from; empty where nobody says.
        holds_encoder: Whether a stock pipeline was saved with one of our text encoders in it.
    """

    kind: Literal["base", "artifact", "baked"]
    base: str
    revision: str | None
    artifact: Artifact | None = None
    baked: BakedRecord | None = None
    class_name: str = ""
    holds_encoder: bool = False


def open_source(
    source: str | Path,
    *,
    revision: str | None,
    subfolder: str | None,
    hub_options: dict[str, Any],
    trusted_key: TrustedKey | None = None,
) -> Opened:
    """Find out what a source is, reading only its index or its manifest and edits.

    Args:
        source: First argument of `from_pretrained`.
        revision: Revision of that repository.
        subfolder: Folder of an artifact inside it.
        hub_options: How to reach the Hub.
        trusted_key: Public key, or `Trust`, that an artifact must be signed with; a pipeline that was saved
            erased carries no signature and is refused then.
    """
    place = resolve_model(str(source))
    if not Path(place).expanduser().exists() and not is_repo_id(place):
        raise ArtifactNotFoundError(
            f"{str(source)!r} is neither a folder nor a Hub id; expected a base pipeline, an artifact, a "
            f"pipeline that was saved erased, or {EMBEDDED_MODEL_ID!r}; check the spelling and the working "
            "directory"
        )
    files = EncoderSource.find(place, "", revision, **hub_options)
    index = read_index(files)
    if index is not None:
        baked = read_baked(index.content, where=index.where)
        kind: Literal["base", "baked"] = "base" if baked is None else "baked"
        if baked is not None and trusted_key is not None:
            raise SignatureError(
                f"{place} is a pipeline that was saved erased, which carries no signature; expected one by "
                "the trusted key; load its base with the signed artifact (erasure=...)"
            )
        return Opened(
            kind,
            place,
            index.revision or revision,
            baked=baked,
            class_name=index.class_name,
            holds_encoder=_names_encoder(index.content),
        )
    artifact = load_artifact(
        place, subfolder=subfolder, revision=revision, trusted_key=trusted_key, **hub_options
    )
    return _with_named_base(artifact, hub_options)


def check_family(cls: type, opened: Opened) -> None:
    """Refuse a base of the other family, whose components the class does not know."""
    stock = stock_parent(cls).__name__
    if opened.class_name and is_xl(opened.class_name) != is_xl(stock):
        raise ConfigError(
            f"{opened.base} is a {opened.class_name}; {cls.__name__} expects what {stock} opens; use "
            f"{erased_class_name(opened.class_name)}.from_pretrained"
        )


def not_erased(source: str | Path) -> ErasureRequiredError:
    """What to say of a source without an erasure."""
    return ErasureRequiredError(
        f"{source} is not erased, and no erasure was given; give one with erasure='folder or Hub id of an "
        "artifact', name an artifact or a pipeline that was saved erased instead, or pass "
        "require_erasure=False"
    )


def brings_erasure(components: Mapping[str, Any]) -> bool:
    """Whether an erased text encoder or UNet was passed as a component."""
    parts = (components.get(part) for part in ERASABLE)
    return any(
        seal_of(part) is not None or record_of(part) is not None or getattr(part, "erasure", None) is not None
        for part in parts
        if isinstance(part, torch.nn.Module)
    )


def _names_encoder(index: Mapping[str, Any]) -> bool:
    """Whether an index says that a text encoder is loaded by one of our classes, which verify it."""
    named = (index.get(part) for part in ERASABLE)
    return any(isinstance(entry, list) and entry[:1] == [PACKAGE] for entry in named)


def public_name(place: str) -> str:
    """What may be told of a place that a pipeline was loaded from; empty for a folder of this machine."""
    if place == str(embedded_folder()):
        return EMBEDDED_MODEL_ID
    return "" if Path(place).expanduser().is_dir() else place


def _with_named_base(artifact: Artifact, hub_options: dict[str, Any]) -> Opened:
    """An artifact and the base that it names, at the commit that the base's index was read from."""
    base, revision = _base_of(artifact), artifact.manifest.base.revision
    index = read_index(EncoderSource.find(base, "", revision, **hub_options))
    if index is None:
        return Opened("artifact", base, revision, artifact=artifact)
    if read_baked(index.content, where=index.where) is not None:
        raise ArtifactFormatError(
            f"{artifact.origin} names a base that was saved erased itself, {artifact.manifest.base.id!r}; "
            "expected one that is not; if you trust it, load that pipeline, with the artifact as erasure="
        )
    revision = index.revision or revision
    return Opened("artifact", base, revision, artifact=artifact, class_name=index.class_name)


def _base_of(artifact: Artifact) -> str:
    """Folder or Hub id of the base that an artifact names.

    An artifact of a local base names that folder alone, without saying where it lies. The Hub is not asked
    for such a name: what it has under it is somebody else's. An artifact that comes from the Hub itself must
    not name a folder: it would be one of this machine.
    """
    named = artifact.manifest.base.id
    if artifact.commit is not None and named != EMBEDDED_MODEL_ID and not is_repo_id(named):
        raise ArtifactFormatError(
            f"{artifact.origin} names the base {named!r}; expected a Hub id such as org/name, since it comes "
            "from the Hub itself; give the base that you trust as the first argument, and the artifact with "
            "erasure=..."
        )
    base = resolve_model(named)
    if not Path(base).expanduser().is_dir() and not is_repo_id(base):
        raise ArtifactNotFoundError(
            f"{artifact.origin} was made for a local base model, a folder named {base!r}, which is not here; "
            "expected that folder; give it as the first argument, and the artifact with erasure=..."
        )
    return base
