"""A pipeline that was saved erased: a stock repository that says, in one entry, what it is.

`model_index.json` carries the key ``_erasure``: which erasures the weights hold, and for each component that
they changed its fingerprint and a digest of the configuration that decides what it computes. Stock diffusers
ignores keys with a leading underscore; loading through this package compares.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from diffusers_erasure._version import __version__
from diffusers_erasure.artifacts.apply import ERASABLE, AppliedErasure
from diffusers_erasure.artifacts.compatibility import behaviour
from diffusers_erasure.artifacts.manifest import canonical_json
from diffusers_erasure.artifacts.tensors import component_tensors, unwrapped
from diffusers_erasure.encoders.seal import SealRecord, put_seal
from diffusers_erasure.errors import ArtifactFormatError, ArtifactIntegrityError, ArtifactVersionError

from .guard import all_erasures
from .session import session_of

BAKED_KEY = "_erasure"
BAKED_FORMAT = 1


class BakedErasure(BaseModel):
    """One erasure that the weights hold."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(max_length=200)
    method: str = Field(max_length=200)
    concepts: tuple[str, ...] = Field(max_length=10_000)
    scale: float
    digest: str = Field(max_length=200)
    transfer: bool
    components: tuple[str, ...] = Field(max_length=len(ERASABLE))

    def applied(self) -> AppliedErasure:
        """As pipelines list it."""
        return AppliedErasure(**self.model_dump())


class BakedRecord(BaseModel):
    """The ``_erasure`` entry of a `model_index.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int
    library_version: str = Field(max_length=100)
    erasures: tuple[BakedErasure, ...] = Field(min_length=1, max_length=1000)
    seals: dict[str, SealRecord] = Field(min_length=1, max_length=len(ERASABLE))
    configs: dict[str, str] = Field(max_length=len(ERASABLE))

    @classmethod
    def of(cls, pipe: Any) -> Self | None:
        """What is to be written for a pipeline as it is now; None if it holds no erasure."""
        erasures = all_erasures(pipe)
        if not erasures:
            return None
        parts = [part for part in ERASABLE if any(part in erasure.components for erasure in erasures)]
        modules = {part: unwrapped(getattr(pipe, part)) for part in parts}
        return cls(
            format_version=BAKED_FORMAT,
            library_version=__version__,
            erasures=tuple(BakedErasure(**vars(erasure)) for erasure in erasures),
            seals={part: SealRecord.of(module) for part, module in modules.items()},
            configs={part: _config_digest(module) for part, module in modules.items()},
        )


def read_baked(index: Mapping[str, Any], *, where: str) -> BakedRecord | None:
    """The entry of a parsed `model_index.json`, or None if it has none."""
    if BAKED_KEY not in index:
        return None
    entry = index[BAKED_KEY]
    version = entry.get("format_version") if isinstance(entry, Mapping) else None
    if isinstance(version, int) and version != BAKED_FORMAT:
        raise ArtifactVersionError(
            f"{where}: the entry {BAKED_KEY} has format {version}; this version of diffusers-erasure "
            f"({__version__}) reads format {BAKED_FORMAT}; install "
            f"{entry.get('library_version', 'another version')!s}"
        )
    try:
        record = BakedRecord.model_validate(entry)
    except ValidationError as error:
        raise ArtifactFormatError(
            f"{where}: the entry {BAKED_KEY} cannot be read: {error}; it has to be what save_pretrained "
            "writes; download or save the pipeline again"
        ) from error
    unknown = set(record.seals) - set(ERASABLE)
    if unknown or set(record.configs) != set(record.seals):
        raise ArtifactFormatError(
            f"{where}: the entry {BAKED_KEY} seals {sorted(record.seals)} with configs of "
            f"{sorted(record.configs)}; expected the same components, of {', '.join(ERASABLE)}; save the "
            "pipeline again"
        )
    return record


def verify_baked(pipe: Any, record: BakedRecord, *, where: str) -> None:
    """Compare a pipeline that was just loaded with what was saved, and seal its components.

    The sealed weights are copied to memory of their own, so that a later change of the files cannot reach
    them.
    """
    for part, seal in record.seals.items():
        module = getattr(pipe, part, None)
        if not isinstance(module, torch.nn.Module):
            raise ArtifactIntegrityError(
                f"{where} has no {part}, which was saved erased; expected it; download the pipeline again"
            )
        _own_memory(module)
        if _config_digest(module) != record.configs[part]:
            raise ArtifactIntegrityError(
                f"{where}: the config of {part} is not the one that was saved, so the same weights would "
                "compute something else; expected it unchanged; download the pipeline again"
            )
        if not seal.agrees(component_tensors(module)):
            raise ArtifactIntegrityError(
                f"{where}: the weights of {part} do not have the fingerprint {seal.fingerprint[:16]}... that "
                "was saved; they were corrupted or exchanged; download the pipeline again, or pass "
                "allow_unverified=True"
            )
    seal_baked(pipe, record)


def seal_baked(pipe: Any, record: BakedRecord) -> None:
    """Hang seals on the components of a verified pipeline."""
    for part, seal in record.seals.items():
        module = getattr(pipe, part)
        erasures = tuple(erasure.applied() for erasure in record.erasures if part in erasure.components)
        session_of(pipe).seals[part] = hung = put_seal(module, seal, erasures)
        hung.confirm(module)


def _config_digest(module: torch.nn.Module) -> str:
    return hashlib.sha256(canonical_json(behaviour(module))).hexdigest()


def _own_memory(module: torch.nn.Module) -> None:
    for parameter in module.parameters():
        if not parameter.is_meta:
            parameter.data = parameter.data.clone()
