"""What a card is about: an artifact, a whole text encoder, or a whole pipeline, in one shape.

An artifact says everything in its manifest. A saved encoder (`config.json`, entry ``erasure``) and a saved
pipeline (`model_index.json`, entry ``_erasure``) carry less: what they do not tell is "not recorded". The
entries are read as plain JSON, so that a card needs no torch; loading them checks them in full.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from diffusers_erasure.artifacts.manifest import Manifest
from diffusers_erasure.errors import ArtifactFormatError

from .bases import Base
from .markdown import as_json, code, plain, short_hash

NOT_RECORDED = "not recorded"
XL_CLASS = "StableDiffusionXL"
FORMS = {
    "delta": "differences to the base's weights",
    "right_factor": "one matrix that the edited weights are multiplied with",
    "whole": "the whole component",
}
PARTS = {
    "text_encoder": "text encoder",
    "text_encoder_2": "second text encoder",
    "unet": "UNet",
}
_TEXT_CLASSES = {"text_encoder": "CLIPTextModel", "text_encoder_2": "CLIPTextModelWithProjection"}
Row = tuple[str, ...]


@dataclass(frozen=True)
class Subject:
    """What is described.

    Attributes:
        kind: An artifact, a whole text encoder, or a whole pipeline.
        methods: Names of the methods that erased.
        concepts: Names of the erased concepts.
        kinds: Kinds of these concepts, where they are recorded.
        base: The base model.
        components: Class name by edited component.
        whole: Whether the repository holds whole components rather than a change of the base's.
        xl: Whether the base is of the SDXL family.
        details: One row per concept: name, kind, synonyms, anchor, members, as Markdown.
        settings: One row per setting: name, value, meaning, as Markdown; None where they are not recorded.
        parts: One row per edited component, as Markdown.
        provenance: Names and values, as Markdown.
    """

    kind: Literal["artifact", "encoder", "pipeline"]
    methods: tuple[str, ...]
    concepts: tuple[str, ...]
    kinds: tuple[str, ...]
    base: Base
    components: Mapping[str, str]
    whole: bool
    xl: bool
    details: tuple[Row, ...] = ()
    settings: tuple[Row, ...] | None = None
    parts: tuple[Row, ...] = ()
    provenance: tuple[Row, ...] = ()

    @property
    def text_components(self) -> dict[str, str]:
        """The edited text encoders, with the names of their classes."""
        return {name: cls for name, cls in self.components.items() if name in _TEXT_CLASSES}

    @property
    def edited(self) -> str:
        """The edited components in words."""
        return " and ".join(PARTS.get(name, plain(name)) for name in self.components)


def artifact_subject(manifest: Manifest) -> Subject:
    """The subject of an artifact's card."""
    components = {str(name): spec.class_name for name, spec in manifest.components.items()}
    return Subject(
        kind="artifact",
        methods=(manifest.method,),
        concepts=manifest.concept_names,
        kinds=tuple(dict.fromkeys(concept.kind for concept in manifest.concepts)),
        base=Base.of(manifest.base.id, manifest.base.revision),
        components=components,
        whole=any(spec.form == "whole" for spec in manifest.components.values()),
        xl="text_encoder_2" in components
        or any(
            spec.config.get("addition_embed_type") == "text_time" for spec in manifest.components.values()
        ),
        details=tuple(_detail(concept) for concept in manifest.concepts),
        settings=tuple(
            (code(name), as_json(setting.value), plain(setting.meaning) or "-")
            for name, setting in manifest.settings.items()
        ),
        parts=tuple(_part(str(name), spec) for name, spec in manifest.components.items()),
        provenance=_provenance(manifest),
    )


def _detail(concept: Any) -> Row:
    anchor = plain(concept.anchor) if concept.anchor else "the prompt without the concept"
    members = ", ".join(plain(member.name) for member in concept.members)
    synonyms = ", ".join(plain(word) for word in concept.synonyms)
    return plain(concept.name), concept.kind, synonyms or "-", anchor, members or "-"


def _part(name: str, spec: Any) -> Row:
    size = sum(tensor.num_bytes for tensor in spec.tensors)
    dtypes = ", ".join(sorted({tensor.dtype for tensor in spec.tensors}))
    return (
        f"{PARTS.get(name, name)} ({code(spec.class_name)})",
        FORMS[spec.form],
        str(len(spec.targets or spec.tensors)),
        f"{size / 1e6:.2f} MB, {dtypes}",
        short_hash(spec.base_fingerprint),
        short_hash(spec.erased_fingerprint),
    )


def _provenance(manifest: Manifest) -> tuple[Row, ...]:
    seed = manifest.known_seed
    steps = str(manifest.steps) if manifest.steps else "none, a closed form"
    versions = ", ".join(f"{plain(name)} {plain(version)}" for name, version in manifest.versions.items())
    return (
        ("method", f"{code(manifest.method)}, version {plain(manifest.method_version)}"),
        ("base model", Base.of(manifest.base.id, manifest.base.revision).told),
        ("base revision", code(manifest.base.revision) if manifest.base.revision else NOT_RECORDED),
        ("seed", NOT_RECORDED if seed is None else str(seed)),
        ("optimisation steps", NOT_RECORDED if seed is None else steps),
        ("made with", versions or NOT_RECORDED),
        ("commit of the code", code(manifest.commit) if manifest.commit else NOT_RECORDED),
        ("created", plain(manifest.created)),
        ("digest of the manifest", code(manifest.digest)),
    )


class _Lenient(BaseModel):
    """Only what a card needs of an entry; the loader is the one that is strict."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class _EncoderFacts(_Lenient):
    method: str
    concepts: tuple[str, ...] = ()
    base_model: str = ""
    base_revision: str | None = None
    artifact_digest: str | None = None
    scale: float = 1.0


class _Weights(_Lenient):
    fingerprint: str


class _EncoderEntry(_Lenient):
    library_version: str
    erasure: _EncoderFacts
    weights: _Weights


class _BakedFacts(_Lenient):
    method: str
    concepts: tuple[str, ...]
    scale: float
    digest: str
    transfer: bool
    components: tuple[str, ...]


class _BakedEntry(_Lenient):
    library_version: str
    erasures: tuple[_BakedFacts, ...]
    seals: Mapping[str, _Weights]


def encoder_subject(config: Mapping[str, Any]) -> Subject:
    """The subject of a saved encoder's card, from its `config.json`.

    Raises:
        ArtifactFormatError: The config has no readable ``erasure`` entry.
    """
    try:
        entry = _EncoderEntry.model_validate(config.get("erasure"))
    except ValidationError as error:
        raise _no_entry("config.json", "erasure", "RobustEncoder.save_pretrained", error) from error
    named = config.get("architectures") or ["CLIPTextModel"]
    projected = named[0] == _TEXT_CLASSES["text_encoder_2"]
    part = "text_encoder_2" if projected else "text_encoder"
    facts = entry.erasure
    base = Base.of(facts.base_model, facts.base_revision)
    return Subject(
        kind="encoder",
        methods=(facts.method,),
        concepts=facts.concepts,
        kinds=(),
        base=base,
        components={part: _TEXT_CLASSES[part]},
        whole=True,
        xl=projected,
        provenance=(
            ("method", code(facts.method)),
            *([("strength", f"{facts.scale:g} of what was trained")] if facts.scale != 1 else []),
            ("base model", base.told),
            ("base revision", code(facts.base_revision) if facts.base_revision else NOT_RECORDED),
            ("fingerprint of the weights", short_hash(entry.weights.fingerprint)),
            (
                "digest of the artifact",
                code(facts.artifact_digest) if facts.artifact_digest else NOT_RECORDED,
            ),
            ("saved with", f"diffusers-erasure {plain(entry.library_version)}"),
        ),
    )


def pipeline_subject(index: Mapping[str, Any]) -> Subject:
    """The subject of a saved pipeline's card, from its `model_index.json`.

    Raises:
        ArtifactFormatError: The index has no readable ``_erasure`` entry.
    """
    try:
        entry = _BakedEntry.model_validate(index.get("_erasure"))
    except ValidationError as error:
        raise _no_entry(
            "model_index.json", "_erasure", "an erased pipeline's save_pretrained", error
        ) from error
    base = Base.of(str(index.get("_name_or_path") or ""))
    classes = {part: _class_of(index, part) for part in entry.seals}
    erasures = tuple(
        (
            "erasure",
            f"{', '.join(plain(name) for name in one.concepts)} by {code(one.method)} at strength "
            f"{one.scale:g}"
            f"{', transferred from another base' if one.transfer else ''}; digest {code(one.digest)}",
        )
        for one in entry.erasures
    )
    seals = tuple(
        (f"fingerprint of the {PARTS.get(part, plain(part))}", short_hash(seal.fingerprint))
        for part, seal in entry.seals.items()
    )
    saved = ("saved with", f"diffusers-erasure {plain(entry.library_version)}")
    return Subject(
        kind="pipeline",
        methods=tuple(dict.fromkeys(one.method for one in entry.erasures)),
        concepts=tuple(dict.fromkeys(name for one in entry.erasures for name in one.concepts)),
        kinds=(),
        base=base,
        components=classes,
        whole=True,
        xl=str(index.get("_class_name", "")).startswith(XL_CLASS),
        provenance=(*erasures, ("base model", base.told), *seals, saved),
    )


def _class_of(index: Mapping[str, Any], part: str) -> str:
    named = index.get(part)
    return str(named[1]) if isinstance(named, list) and len(named) == 2 else _TEXT_CLASSES.get(part, "UNet")


def _no_entry(file: str, key: str, writer: str, error: ValidationError) -> ArtifactFormatError:
    return ArtifactFormatError(
        f"{file} has no entry {key!r} that a card can be rendered from ({error.error_count()} faults, the "
        f"first: {error.errors()[0]['msg']}); expected what {writer} writes; save it again"
    )
