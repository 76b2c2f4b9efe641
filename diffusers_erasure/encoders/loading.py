"""Loading a text encoder: found, checked, built without random weights, verified.

Stock loading fills what a file lacks with random values and says so in a log line. Here a file has to fit
its config completely, and an encoder that is said to be erased has to be the one that was saved: the
fingerprint in its `config.json` is compared with the tensors that were read.

A source is one of three things:

    an encoder folder with an ``erasure`` entry   verified by its fingerprint
    an artifact that edits the text encoder       base encoder + edit, verified by the artifact's fingerprints
    any other encoder folder                      only with allow_unverified=True
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPTextConfig

from diffusers_erasure.artifacts.apply import ErasureTransferWarning
from diffusers_erasure.artifacts.artifact import Artifact
from diffusers_erasure.artifacts.compatibility import check_behaviour, check_fits
from diffusers_erasure.artifacts.copying import edited_copy
from diffusers_erasure.artifacts.door import load_artifact
from diffusers_erasure.artifacts.edits import apply_edit
from diffusers_erasure.artifacts.fingerprint import fingerprint
from diffusers_erasure.artifacts.manifest import MANIFEST_NAME, ComponentSpec
from diffusers_erasure.artifacts.signature import TrustedKey
from diffusers_erasure.artifacts.tensors import component_tensors
from diffusers_erasure.embedded import EMBEDDED_MODEL_ID, resolve_model
from diffusers_erasure.errors import (
    ArtifactIntegrityError,
    ArtifactMismatchError,
    ArtifactNotFoundError,
    ConfigError,
    SignatureError,
    UnverifiedArtifactError,
)

from .architecture import CONFIG_FILE, architecture_digest, check_encoder_config, read_encoder_config
from .checkpoint import common_dtype, match_to_module
from .entry import ENTRY_KEY, TRANSFERRED, EncoderErasure, SealedEntry, read_entry
from .seal import SealRecord
from .source import EncoderSource, read_weights

ATTENTION = ("sdpa", "eager", "flash_attention_2", "flex_attention")
DTYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
}
IDLE_OPTIONS: Mapping[str, tuple[object, ...]] = {
    "max_memory": (None,),
    "offload_folder": (None,),
    "offload_state_dict": (None, False),
    "use_safetensors": (None, True),
    "low_cpu_mem_usage": (None, True, False),
    "variant": (None,),
    "weights_only": (None, True),
    "trust_remote_code": (None, False),
}
"""Loader arguments that stock pipelines pass along, with the values that ask for nothing special."""


@dataclass(frozen=True)
class LoadRequest:
    """Where an encoder is to come from, and what is accepted."""

    source: str
    subfolder: str = ""
    revision: str | None = None
    token: str | bool | None = field(default=None, repr=False)
    cache_dir: str | Path | None = None
    local_files_only: bool = False
    force_download: bool = False
    attn_implementation: str | None = None
    allow_unverified: bool = False
    trusted_key: TrustedKey | None = None

    def hub_options(self) -> dict[str, Any]:
        """Arguments that say how to reach the Hub."""
        return {
            "token": self.token,
            "cache_dir": self.cache_dir,
            "local_files_only": self.local_files_only,
            "force_download": self.force_download,
        }


@dataclass(frozen=True)
class LoadedEncoder:
    """A stock encoder, what is known of its erasure, and what its weights have to stay."""

    encoder: torch.nn.Module
    erasure: EncoderErasure
    seal: SealRecord | None


def load_encoder(
    stock_class: type[torch.nn.Module],
    request: LoadRequest,
    *,
    dtype: object = None,
    base: str | Path | torch.nn.Module | None = None,
    options: Mapping[str, object] | None = None,
) -> LoadedEncoder:
    """Load what `request` names as an instance of `stock_class`, with what is known of its erasure.

    Args:
        stock_class: `CLIPTextModel` or `CLIPTextModelWithProjection`.
        request: Source and permissions.
        dtype: Floating dtype or its name; "auto" for the stored one. With None an artifact is applied in
            float32, as it was trained, and a whole encoder stays as it is stored.
        base: Base encoder for an artifact.
        options: Further loader arguments; only idle values are accepted, and one device as `device_map`.
    """
    device = _placed_on(options or {})
    _check_options(options or {})
    wanted = _floating_dtype(dtype)
    if request.attn_implementation not in (None, *ATTENTION):
        raise ConfigError(
            f"attn_implementation={request.attn_implementation!r} is not one of {ATTENTION}; code from a "
            "repository is never loaded; choose one of these"
        )
    if request.source == EMBEDDED_MODEL_ID:
        raise ConfigError(
            f"{EMBEDDED_MODEL_ID!r} is a whole pipeline that is not erased, not an erased text encoder; use "
            "embedded_pipeline() for the base, or give an artifact that edits its text encoder"
        )
    source = EncoderSource.find(request.source, request.subfolder, request.revision, **request.hub_options())
    if source.has(MANIFEST_NAME):
        loaded = _load_from_artifact(stock_class, request, base, torch.float32 if dtype is None else wanted)
    elif base is not None:
        raise ConfigError(
            f"base= was given, but {source.label} is a whole encoder, not an artifact; a base is only needed "
            f"to apply an artifact ({MANIFEST_NAME}); leave base= out"
        )
    elif request.trusted_key is not None:
        raise source.unknown(MANIFEST_NAME) or SignatureError(
            f"{source.label} is no artifact (it has no {MANIFEST_NAME}), and only artifacts carry "
            "signatures; expected one by the trusted key; give the signed artifact, or load it without "
            "trusted_key"
        )
    else:
        loaded = _load_whole(stock_class, source, request)
    encoder = loaded.encoder if wanted is None else loaded.encoder.to(wanted)
    return replace(loaded, encoder=encoder if device is None else encoder.to(device))


def build_encoder(
    stock_class: type[torch.nn.Module], config: CLIPTextConfig, tensors: Mapping[str, Tensor], *, where: str
) -> torch.nn.Module:
    """An encoder in eval mode that owns the given tensors; nothing is ever initialised at random."""
    with torch.device("meta"):
        encoder = stock_class(config)
    weights = match_to_module(tensors, encoder, where=where)
    dtype = common_dtype(weights.values())
    encoder.load_state_dict({key: value.to(dtype) for key, value in weights.items()}, assign=True)
    for name, buffer in list(encoder.named_buffers()):
        owner, _, leaf = name.rpartition(".")
        if leaf != "position_ids":
            raise ArtifactMismatchError(
                f"{where}: buffer {name!r} has no stored value; install a tested transformers"
            )
        counter = torch.arange(buffer.shape[-1]).expand((1, -1)).clone()
        encoder.get_submodule(owner).register_buffer(leaf, counter, persistent=False)
    return encoder.eval()


def _load_whole(
    stock_class: type[torch.nn.Module], source: EncoderSource, request: LoadRequest
) -> LoadedEncoder:
    path = source.path(CONFIG_FILE)
    raw = read_encoder_config(path)
    config = check_encoder_config(raw, where=str(path))
    if request.attn_implementation is not None:
        config._attn_implementation = request.attn_implementation
    entry = read_entry(raw[ENTRY_KEY], where=str(path)) if ENTRY_KEY in raw else None
    if entry is None and not request.allow_unverified:
        raise UnverifiedArtifactError(
            f"{source.label} carries no erasure entry in {CONFIG_FILE}, so nothing shows that it is erased "
            "or intact; expected an encoder saved by RobustEncoder.save_pretrained; pass "
            "allow_unverified=True to load it all the same"
        )
    weights, label = read_weights(source)
    encoder = build_encoder(stock_class, config, weights, where=label)
    if entry is None:
        erasure = EncoderErasure(
            method="unknown", note=f"loaded unverified from {source.label}: no erasure entry"
        )
        _warn_unverified(source.label, "it carries nothing to verify it with")
        return LoadedEncoder(encoder, erasure, None)
    fault = _entry_fault(entry, encoder, config)
    if fault is None:
        return LoadedEncoder(encoder, entry.erasure.model_copy(update={"verified": True}), entry.weights)
    if not request.allow_unverified:
        raise ArtifactIntegrityError(
            f"{source.label} is not the encoder that was saved: {fault}; download it again, or pass "
            "allow_unverified=True to load it as it is"
        )
    _warn_unverified(source.label, fault)
    return LoadedEncoder(encoder, entry.erasure.model_copy(update={"verified": False, "note": fault}), None)


def _entry_fault(entry: SealedEntry, encoder: torch.nn.Module, config: CLIPTextConfig) -> str | None:
    if architecture_digest(config) != entry.architecture:
        return f"{CONFIG_FILE} was changed: epsilon, activation, token ids or sizes are not the saved ones"
    if not entry.weights.agrees(component_tensors(encoder)):
        return f"the weights do not have the saved fingerprint {entry.weights.fingerprint[:16]}..."
    return None


def _warn_unverified(label: str, reason: str) -> None:
    warnings.warn(
        f"{label} was loaded unverified: {reason}; whether it is erased, and of what, is not known",
        UserWarning,
        stacklevel=5,
    )


def _load_from_artifact(
    stock_class: type[torch.nn.Module],
    request: LoadRequest,
    base: str | Path | torch.nn.Module | None,
    wanted: torch.dtype | None,
) -> LoadedEncoder:
    artifact = load_artifact(
        request.source,
        subfolder=request.subfolder or None,
        revision=request.revision,
        trusted_key=request.trusted_key,
        **request.hub_options(),
    )
    edited_components = sorted(artifact.manifest.components)
    if edited_components not in (["text_encoder"], ["text_encoder_2"]):
        raise ArtifactMismatchError(
            f"the artifact {request.source} edits {', '.join(edited_components)}; expected one text encoder "
            "alone, since an encoder could carry only a part of the erasure; load it into a pipeline with "
            "load_erasure()"
        )
    component = edited_components[0]
    spec = artifact.manifest.components[component]
    encoder = (
        base
        if isinstance(base, torch.nn.Module)
        else _widened(_load_base(stock_class, artifact, component, base, request), wanted)
    )
    edited, exact = _edit(artifact, component, spec, encoder)
    erasure = EncoderErasure(
        method=artifact.manifest.method,
        concepts=artifact.manifest.concept_names,
        base_model=artifact.manifest.base.id,
        base_revision=artifact.manifest.base.revision,
        artifact_digest=artifact.digest,
        verified=True,
        note="" if exact else TRANSFERRED,
    )
    return LoadedEncoder(edited, erasure, SealRecord.of(edited))


def _load_base(
    stock_class: type[torch.nn.Module],
    artifact: Artifact,
    component: str,
    base: str | Path | None,
    request: LoadRequest,
) -> torch.nn.Module:
    """The base encoder that the caller or the manifest names: an encoder folder, or one inside a pipeline."""
    reference = artifact.manifest.base
    name, revision = (reference.id, reference.revision) if base is None else (str(base), None)
    place, options = resolve_model(name), request.hub_options()
    inner = Path(place, component).is_dir() or not Path(place).exists()
    source = EncoderSource.find(place, component if inner else "", revision, **options)
    if not source.has(CONFIG_FILE):
        raise ArtifactNotFoundError(
            f"the artifact {request.source} is made for {name!r}, whose {component} cannot be found; "
            f"expected a pipeline with a {component} folder, or an encoder's own folder; give the base model "
            "with base="
        )
    path = source.path(CONFIG_FILE)
    config = check_encoder_config(read_encoder_config(path), where=str(path))
    if request.attn_implementation is not None:
        config._attn_implementation = request.attn_implementation
    weights, label = read_weights(source)
    return build_encoder(stock_class, config, weights, where=label)


def _widened(base: torch.nn.Module, wanted: torch.dtype | None) -> torch.nn.Module:
    """The base in the dtype that was asked for, if that is wider: an edit is rounded to its base's dtype."""
    stored = common_dtype(base.parameters())
    return base.to(wanted) if wanted is not None and wanted.itemsize > stored.itemsize else base


def _edit(
    artifact: Artifact, component: str, spec: ComponentSpec, base: torch.nn.Module
) -> tuple[torch.nn.Module, bool]:
    """The edited copy of the base, and whether the base is the one that the artifact was made for."""
    edit = artifact.edits[component]
    before = component_tensors(base)
    check_fits(component, edit, before, origin=artifact.origin)
    changed = {name: apply_edit(before[name], [(edit, 1.0)], name=name) for name in edit.targets}
    edited = edited_copy(base, changed)
    if fingerprint(base) not in {spec.base_fingerprint, *spec.base_rounded.values()}:
        warnings.warn(
            f"the artifact was made for {artifact.manifest.base.id}; the given base encoder has other "
            "weights of the same shapes, so this is a transfer whose effect was not measured",
            ErasureTransferWarning,
            stacklevel=5,
        )
        return edited, False
    check_behaviour(component, base, spec.config, origin=artifact.origin)
    if fingerprint(base) == spec.base_fingerprint and fingerprint(edited) != spec.erased_fingerprint:
        raise ArtifactIntegrityError(
            "applying the artifact to its base did not give the erased encoder that was saved; expected the "
            f"fingerprint {spec.erased_fingerprint[:16]}...; download artifact and base again"
        )
    return edited, True


def _floating_dtype(dtype: object) -> torch.dtype | None:
    if dtype is None or dtype == "auto":
        return None
    found = DTYPES.get(str(dtype).removeprefix("torch."))
    if found is None:
        raise ConfigError(f"dtype={dtype!r} is not one of {', '.join(DTYPES)} or 'auto'; choose one of these")
    return found


def _placed_on(options: Mapping[str, object]) -> torch.device | None:
    """The one device that `device_map` names; None if it names none."""
    asked = options.get("device_map")
    place: Any = asked[""] if isinstance(asked, Mapping) and set(asked) == {""} else asked
    if asked is None:
        return None
    try:
        found = torch.device(place)
    except (RuntimeError, TypeError):  # "auto", "disk", or not what names a device at all
        found = torch.device("meta")
    if found.type == "meta":
        raise ConfigError(
            f"device_map={asked!r} names no device that holds a whole encoder; expected one, such as "
            '"cuda", torch.device("cuda:1") or {"": 0}, since an erased encoder is not spread; name one, or '
            "leave it out"
        )
    return found


def _check_options(options: Mapping[str, object]) -> None:
    for name, value in options.items():
        if name == "device_map":
            continue
        if name not in IDLE_OPTIONS:
            raise ConfigError(
                f"from_pretrained got an unknown argument {name}={value!r}; loading is strict and takes no "
                "others than those of its signature; leave it out"
            )
        if value not in IDLE_OPTIONS[name]:
            raise ConfigError(f"{name}={value!r} is not supported for an erased encoder; leave it out")
