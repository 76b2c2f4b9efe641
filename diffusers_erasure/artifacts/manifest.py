"""The manifest of an artifact: `erasure_config.json`, a strict table of contents.

It binds everything that a loader must be able to check: the concepts and their anchors, the method with every
setting, the base model with a fingerprint per edited component, each tensor's name, shape and dtype, the
sha256 of each file, and the canary. Unknown fields are refused, every string and number is bounded, and a
checksum over the whole text notices any accidental change. Reading a manifest needs no torch.
"""

import hashlib
import json
import math
from typing import Annotated, Any, Literal, Protocol, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    ValidationError,
    model_validator,
)

from diffusers_erasure.errors import ArtifactFormatError, ArtifactIntegrityError, ArtifactVersionError

from .jsontext import parse_json

FORMAT_VERSION = 1
MANIFEST_NAME = "erasure_config.json"
CANARY_NAME = "canary.safetensors"
MAX_MANIFEST_BYTES = 4 * 2**20
MAX_FILE_BYTES = 2 * 2**30 - 1
MAX_TENSORS = 10_000
ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8}

FloatType = Literal["F64", "F32", "F16", "BF16"]
ComponentName = Literal["text_encoder", "text_encoder_2", "unet"]
Line = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]*$", max_length=2000)]
Word = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]+$", max_length=200)]
TensorName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.\-]{0,255}$")]
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.\-]{0,127}$")]
WeightFile = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_\-]{0,63}\.safetensors$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Dimension = Annotated[int, Field(ge=1, le=2**31)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TensorSpec(_Record):
    """Name, shape and safetensors dtype of one stored tensor."""

    name: TensorName
    shape: Annotated[tuple[Dimension, ...], Field(max_length=8)]
    dtype: FloatType | Literal["I64"]

    @property
    def num_bytes(self) -> int:
        """Size of the tensor's data in bytes."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


class ComponentSpec(_Record):
    """How one component is edited, and what it was and becomes.

    `base_fingerprint` and `erased_fingerprint` are over the weights in the dtype they were trained on;
    `base_rounded` and `erased_rounded` are the same weights rounded to fp16 and bf16, so that a pipeline
    loaded in half precision is still known to be the exact base. `config` holds the fields that change what
    the network computes without changing a weight.
    """

    form: Literal["delta", "right_factor", "whole"]
    file: WeightFile
    class_name: Word
    base_fingerprint: Sha256
    erased_fingerprint: Sha256
    base_rounded: dict[FloatType, Sha256] = {}
    erased_rounded: dict[FloatType, Sha256] = {}
    config: dict[Word, JsonValue] = {}
    tensors: Annotated[tuple[TensorSpec, ...], Field(min_length=1, max_length=MAX_TENSORS)]
    targets: Annotated[tuple[TensorName, ...], Field(max_length=MAX_TENSORS)] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [spec.name for spec in self.tensors]
        if len(set(names)) != len(names):
            raise ValueError("a tensor is listed twice")
        if any(spec.dtype == "I64" for spec in self.tensors):
            raise ValueError("weights are floating point numbers, found I64")
        if sum(spec.num_bytes for spec in self.tensors) > MAX_FILE_BYTES:
            raise ValueError(f"the tensors of {self.file} are larger than {MAX_FILE_BYTES} bytes")
        if self.form == "right_factor":
            self._check_factor()
        elif self.targets:
            raise ValueError(f"only a right factor has targets, not the form {self.form!r}")
        return self

    def _check_factor(self) -> None:
        shapes = {spec.name: spec.shape for spec in self.tensors}
        if not self.targets or len(set(self.targets)) != len(self.targets):
            raise ValueError("a right factor needs its targets, each once")
        if set(shapes) == {"factor"}:
            fits = len(shapes["factor"]) == 2 and shapes["factor"][0] == shapes["factor"][1]
        elif set(shapes) == {"left", "right"}:
            fits = (
                len(shapes["left"]) == len(shapes["right"]) == 2 and shapes["left"] == shapes["right"][::-1]
            )
        else:
            fits = False
        if not fits:
            raise ValueError(
                f"a right factor is `factor` (d, d) or `left` (d, r) and `right` (r, d), found {shapes}"
            )


class ConceptLike(Protocol):
    """What `ConceptRecord.of` reads of a concept."""

    @property
    def name(self) -> str:
        """The concept's own name."""

    @property
    def kind(self) -> Any:
        """A `ConceptKind`, or its name."""

    @property
    def synonyms(self) -> tuple[str, ...]:
        """Other words for it."""

    @property
    def anchor(self) -> str:
        """What it is mapped to; empty for the unconditional."""


class ConceptRecord(_Record):
    """One erased concept: its name, kind, synonyms, what it was mapped to, and a theme's members."""

    name: Word
    kind: Literal["object", "style", "identity", "theme"] = "object"
    synonyms: Annotated[tuple[Word, ...], Field(max_length=200)] = ()
    anchor: Line = ""
    members: Annotated[tuple["ConceptRecord", ...], Field(max_length=200)] = ()

    @classmethod
    def of(cls, concept: ConceptLike) -> "ConceptRecord":
        """The record of a concept of `diffusers_erasure.concepts`."""
        members = tuple(cls.of(member) for member in getattr(concept, "members", ()))
        kind: Any = str(concept.kind)
        synonyms = tuple(concept.synonyms)
        return cls(name=concept.name, kind=kind, synonyms=synonyms, anchor=concept.anchor, members=members)


class BaseModelRef(_Record):
    """The base model: Hub id or folder name, and the commit where one is known."""

    id: Word
    revision: Word | None = None


class SettingRecord(_Record):
    """A setting of the method: its value and what it means."""

    value: JsonValue
    meaning: Line = ""


class Canary(_Record):
    """A few prompts whose states (or noise predictions) tell the erased model from the base.

    `distances` is the norm of the difference between the erased and the base response, per component; a
    response agrees with the erased one if it is nearer than `tolerance` times that.
    """

    file: WeightFile = CANARY_NAME
    prompts: Annotated[tuple[Line, ...], Field(min_length=1, max_length=64)]
    tolerance: Annotated[float, Field(gt=0, le=0.5)] = 0.05
    distances: dict[ComponentName, Annotated[float, Field(ge=0)]]
    tensors: Annotated[tuple[TensorSpec, ...], Field(min_length=1, max_length=64)]


class Manifest(_Record):
    """Everything that `erasure_config.json` says; see the module's text."""

    format_version: Literal[1] = 1
    method: Word
    method_version: Word
    settings: dict[Word, SettingRecord] = {}
    concepts: Annotated[tuple[ConceptRecord, ...], Field(min_length=1, max_length=1000)]
    base: BaseModelRef
    components: Annotated[dict[ComponentName, ComponentSpec], Field(min_length=1)]
    files: dict[FileName, Sha256]
    canary: Canary
    versions: dict[Word, Word] = {}
    commit: Line = ""
    seed: int
    steps: Annotated[int, Field(ge=0)]
    evaluation: dict[Word, JsonValue] | None = None
    attachments: dict[FileName, Sha256] = {}
    created: Word

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        stored = [spec.file for spec in self.components.values()] + [self.canary.file]
        if len(set(stored)) != len(stored):
            raise ValueError("two components share one file")
        missing = set(stored) - set(self.files)
        if missing:
            raise ValueError(f"no sha256 for {', '.join(sorted(missing))}")
        unknown = set(self.files) - set(stored) - {"config.json"}
        if unknown:
            raise ValueError(f"a sha256 for files that belong to nothing: {', '.join(sorted(unknown))}")
        if set(self.canary.distances) != set(self.components):
            raise ValueError("the canary must cover exactly the edited components")
        if MANIFEST_NAME in self.attachments or set(self.attachments) & set(self.files):
            raise ValueError("a file of the artifact is listed as an attachment")
        return self

    @property
    def digest(self) -> str:
        """sha256 that names this erasure; later additions (evaluation, attachments) do not change it."""
        content = self.model_dump(mode="json", exclude={"evaluation", "attachments", "created"})
        return hashlib.sha256(canonical_json(content)).hexdigest()

    @property
    def known_seed(self) -> int | None:
        """Seed of the run; None (stored as a negative number) where an imported erasure does not tell it."""
        return self.seed if self.seed >= 0 else None

    @property
    def concept_names(self) -> tuple[str, ...]:
        """Names of the erased concepts."""
        return tuple(concept.name for concept in self.concepts)


def canonical_json(content: Any) -> bytes:
    """One spelling per content: sorted keys, no spaces, ASCII, no NaN."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def render_manifest(manifest: Manifest) -> bytes:
    """The text of `erasure_config.json`, with the checksum over its content as first entry."""
    content = manifest.model_dump(mode="json")
    checksum = hashlib.sha256(canonical_json(content)).hexdigest()
    return (json.dumps({"checksum": checksum, **content}, indent=2, allow_nan=False) + "\n").encode()


def parse_manifest(data: bytes, *, origin: str) -> Manifest:
    """Read the text of a manifest, refusing everything that is not exactly one.

    Args:
        data: Bytes of the file.
        origin: The file as the reader knows it, for messages.
    """
    content = parse_json(data, origin=origin, max_bytes=MAX_MANIFEST_BYTES)
    if not isinstance(content, dict):
        raise ArtifactFormatError(
            f"{origin} holds a JSON {type(content).__name__}; expected an object with the fields of an "
            "erasure manifest; download or save the artifact again"
        )
    _check_version(content, origin)
    _check_checksum(content, origin)
    try:
        return Manifest.model_validate_json(canonical_json(content), strict=True)
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, item['loc'])) or 'manifest'}: {item['msg']}" for item in error.errors()
        ]
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ArtifactFormatError(
            f"{origin} does not describe an artifact: {'; '.join(problems[:3])}{more}; expected the fields "
            f"of format version {FORMAT_VERSION} and no others; download or save the artifact again"
        ) from error


def _check_version(content: dict[str, Any], origin: str) -> None:
    version = content.get("format_version")
    if type(version) is not int or version < 1:
        raise ArtifactFormatError(
            f"{origin} has format_version {version!r}; expected a whole number from 1 on; this is not a "
            "manifest of diffusers_erasure, give the folder of an artifact"
        )
    if version != FORMAT_VERSION:
        raise ArtifactVersionError(
            f"{origin} is written in artifact format {version}; this version of diffusers_erasure reads "
            f"format {FORMAT_VERSION}; install one that reads format {version}: pip install --upgrade "
            "diffusers-erasure"
        )


def _check_checksum(content: dict[str, Any], origin: str) -> None:
    stated = content.pop("checksum", None)
    found = hashlib.sha256(canonical_json(content)).hexdigest()
    if stated != found:
        raise ArtifactIntegrityError(
            f"{origin} was changed after it was written: its content has the sha256 {found}, expected "
            f"{stated}; download the artifact again or save it anew (a manifest cannot be edited by hand)"
        )
