"""What an erased text encoder knows about itself, and how that stands in its `config.json`.

A whole robust encoder is a plain `CLIPTextModel` folder, so that everything can open it; the key ``erasure``
of its `config.json` says what was erased and binds the weights (fingerprint) and the entries of the config
that decide what they compute. Readers that do not know the key keep it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from diffusers_erasure._version import __version__
from diffusers_erasure.artifacts.apply import AppliedErasure
from diffusers_erasure.errors import ArtifactFormatError, ArtifactVersionError, ConfigError

from .seal import SealRecord

ENTRY_KEY = "erasure"
ENTRY_FORMAT = 1
TRANSFERRED = "transferred to another base model"


class EncoderErasure(BaseModel):
    """The erasure that a text encoder carries in its weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str = Field(
        min_length=1, max_length=200, description="Training method, for example 'advunlearn'."
    )
    concepts: tuple[str, ...] = Field(
        default=(), max_length=10_000, description="Names of the erased concepts."
    )
    base_model: str = Field(
        default="", max_length=500, description="Id of the model that the encoder was trained from."
    )
    base_revision: str | None = Field(default=None, max_length=200, description="Its exact revision.")
    artifact_digest: str | None = Field(
        default=None, max_length=200, description="Digest of the artifact, if any."
    )
    scale: float = Field(
        default=1.0, allow_inf_nan=False, description="Strength, 1 as trained; of several, the weakest."
    )
    verified: bool = Field(
        default=False, exclude=True, description="The weights were checked against a fingerprint."
    )
    note: str = Field(default="", exclude=True, description="How the encoder came here, where that matters.")

    @classmethod
    def from_any(cls, value: Self | Mapping[str, Any]) -> Self:
        """Accept the object itself or a mapping of its fields."""
        if isinstance(value, cls):
            return value
        try:
            return cls.model_validate(dict(value))
        except (ValidationError, TypeError, ValueError) as error:
            raise ConfigError(
                f"erasure={value!r} does not describe an erasure: {error}; give at least 'method' and "
                f"'concepts'; known fields: {', '.join(cls.model_fields)}"
            ) from error

    def applied(self, digest: str, component: str = "text_encoder") -> AppliedErasure:
        """The erasure as pipelines list it."""
        return AppliedErasure(
            name="+".join(self.concepts)[:100] or self.method,
            method=self.method,
            concepts=self.concepts,
            scale=self.scale,
            digest=self.artifact_digest or digest,
            transfer=self.note == TRANSFERRED,
            components=(component,),
        )


def combined(erasures: Sequence[AppliedErasure]) -> EncoderErasure | None:
    """One description of several erasures that the same weights hold."""
    if not erasures:
        return None
    return EncoderErasure(
        method="+".join(dict.fromkeys(erasure.method for erasure in erasures)),
        concepts=tuple(dict.fromkeys(concept for erasure in erasures for concept in erasure.concepts)),
        artifact_digest=erasures[0].digest if len(erasures) == 1 else None,
        scale=min((erasure.scale for erasure in erasures), key=abs),
        verified=True,
    )


class SealedEntry(BaseModel):
    """The ``erasure`` entry of a `config.json`: an erasure with what binds the weights to it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int
    library_version: str = Field(max_length=100)
    erasure: EncoderErasure
    weights: SealRecord
    architecture: str = Field(
        pattern="^[0-9a-f]{64}$", description="Sha256 of the entries that decide what is computed."
    )


def seal_entry(erasure: EncoderErasure, *, weights: SealRecord, architecture: str) -> dict[str, Any]:
    """The ``erasure`` entry for an encoder with these weights, ready for JSON."""
    entry = SealedEntry(
        format_version=ENTRY_FORMAT,
        library_version=__version__,
        erasure=erasure,
        weights=weights,
        architecture=architecture,
    )
    return entry.model_dump(mode="json")


def read_entry(value: object, *, where: str) -> SealedEntry:
    """Parse the ``erasure`` entry of a `config.json`; an unknown format is refused by name."""
    if isinstance(value, Mapping):
        version = value.get("format_version")
        if isinstance(version, int) and version > ENTRY_FORMAT:
            raise ArtifactVersionError(
                f"{where}: the erasure entry has format {version}; this version of diffusers-erasure "
                f"({__version__}) reads up to {ENTRY_FORMAT}; install "
                f"{value.get('library_version', 'a newer version')!s} or later"
            )
    try:
        entry = SealedEntry.model_validate(value)
    except ValidationError as error:
        raise ArtifactFormatError(
            f"{where}: the erasure entry cannot be read: {error}; it has to be what save_pretrained writes; "
            "save the encoder again"
        ) from error
    if entry.format_version != ENTRY_FORMAT:
        raise ArtifactVersionError(
            f"{where}: the erasure entry has format {entry.format_version}, not {ENTRY_FORMAT}; save the "
            "encoder again"
        )
    return entry
