"""A text encoder that somebody else made robust, as an artifact: its difference to the base, with its origin.

Published robust encoders (`OPTML-Group/AdvUnlearn`, arXiv:2405.15234) are folders with `config.json` and one
weight file; nothing says how they were trained or from what. Compared with the base model's own text encoder,
the changed tensors are the erasure, and everything that an artifact has can be made from them: fingerprints,
canary, hashes. What only their makers know is recorded as unknown, never guessed.

    W' = W + D      with D = V - W for every tensor V of the encoder that differs from the base's W

A tensor that is the base's own, rounded to half precision on either side, does not count as changed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from diffusers_erasure.artifacts.artifact import Artifact, build_artifact
from diffusers_erasure.artifacts.canary import choose_prompts
from diffusers_erasure.artifacts.edits import DeltaEdit
from diffusers_erasure.artifacts.fingerprint import ROUNDED_TYPES
from diffusers_erasure.artifacts.manifest import MANIFEST_NAME, BaseModelRef, SettingRecord
from diffusers_erasure.artifacts.record import record_of
from diffusers_erasure.artifacts.tensors import component_tensors
from diffusers_erasure.concepts import ConceptSet
from diffusers_erasure.errors import (
    ArtifactMismatchError,
    BaseModelMismatchError,
    ConfigError,
    ErasureStateError,
)
from diffusers_erasure.prompts import erasure_pairs, world_of

from .architecture import CONFIG_FILE, check_encoder_config, read_encoder_config
from .entry import ENTRY_KEY
from .loading import LoadRequest, build_encoder
from .seal import seal_of
from .source import EncoderSource, read_weight_file

IMPORTED = "imported"
"""Stands as the method's version: nobody knows which version of which code it was."""
UNKNOWN = "unknown"
UNKNOWN_SEED = -1
"""What stands where a manifest wants a seed, which an imported encoder does not tell."""
UNKNOWN_FACTS: Mapping[str, str] = {
    "training_settings": "settings of the training",
    "training_seed": "seed of the training; the manifest's own field holds -1 in its place",
    "training_steps": "steps of the training; the manifest's own field holds 0 in their place",
    "training_anchor": "what the concepts were mapped to",
}
STATE_KEYS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "hidden_act",
    "layer_norm_eps",
)
"""Entries of a config that decide the text states; token ids and the projection only touch the pooled one."""
_LAYER = re.compile(r"encoder\.layers\.(\d+)\.")


@dataclass(frozen=True, eq=False)
class Difference:
    """What an encoder changes in its base.

    Attributes:
        deltas: D by canonical name, float32, for the tensors that changed.
        total: How many tensors the encoder has.
        rounded: How many differ from the base by rounding alone, which is left out.
        relative: Norm of all D over the norm of the weights that they change.
    """

    deltas: Mapping[str, Tensor]
    total: int
    rounded: int
    relative: float

    @property
    def places(self) -> str:
        """The changed layers in words, such as `encoder layers 0-11, final_layer_norm`."""
        return changed_places(tuple(self.deltas))


@dataclass(frozen=True, eq=False)
class ImportedEncoder:
    """An artifact that was made from a foreign encoder.

    Attributes:
        artifact: Ready to be saved.
        difference: What it changes.
        source: Name, subfolder and commit of the encoder, in words.
        file: Name of its weight file.
        sha256: Of that file.
        notes: What a reader of the result has to know.
    """

    artifact: Artifact
    difference: Difference
    source: str
    file: str
    sha256: str
    notes: tuple[str, ...] = ()


def import_encoder(
    pipe: Any, request: LoadRequest, *, concepts: ConceptSet, base: BaseModelRef, method: str
) -> ImportedEncoder:
    """Make an artifact from a robust text encoder that has no manifest.

    Args:
        pipe: Base pipeline with `text_encoder` and `tokenizer`; read, not changed.
        request: Where the encoder lies.
        concepts: What it erases, as its makers say.
        base: How the artifact names the base model.
        method: Name of the method that it was trained with, as its makers say.

    Raises:
        ConfigError: The source is an artifact or a robust encoder of this package already.
        BaseModelMismatchError: The encoder is of another architecture than the base's.
        ArtifactMismatchError: Its weights do not fit its config, or it is the base's encoder itself.
        ArtifactError: Its files are missing, damaged or not what they seem.
    """
    encoder = _base_encoder(pipe)
    source = EncoderSource.find(request.source, request.subfolder, request.revision, **request.hub_options())
    config = _foreign_config(source)
    _check_same_computation(config, encoder.config, source.label)
    file = read_weight_file(source)
    sha256 = file.sha256
    foreign = build_encoder(CLIPTextModel, config, file.tensors(), where=file.origin)
    difference = encoder_difference(encoder, foreign, label=source.label)
    artifact = build_artifact(
        pipe,
        {"text_encoder": DeltaEdit(difference.deltas)},
        method=method,
        method_version=IMPORTED,
        settings=_records(request, source.revision, file.name, sha256, difference),
        concepts=concepts,
        base=base,
        seed=UNKNOWN_SEED,
        steps=0,
        canary_prompts=choose_prompts([p.source for p in erasure_pairs(concepts, world=world_of(base.id))]),
    )
    where = "/".join(filter(None, (_public_name(request), request.subfolder)))
    told = f"{where} at {source.revision}" if source.revision else where
    return ImportedEncoder(artifact, difference, told, file.name, sha256, _notes(difference))


def encoder_difference(base: nn.Module, encoder: nn.Module, *, label: str) -> Difference:
    """What an encoder changes in the base's, tensor by tensor.

    Args:
        base: The base's text encoder.
        encoder: The robust one.
        label: The robust one in words, for messages.

    Raises:
        BaseModelMismatchError: They have other tensors, or tensors of other shapes.
        ArtifactMismatchError: No tensor differs by more than rounding.
    """
    before, after = (
        {name: tensor.detach() for name, tensor in component_tensors(module).items()}
        for module in (base, encoder)
    )
    _check_same_tensors(before, after, label)
    differing = [name for name in after if not torch.equal(after[name].to(before[name]), before[name])]
    changed = [name for name in differing if not _only_rounded(before[name], after[name])]
    if not changed:
        told = f" ({len(differing)} differ by rounding alone)" if differing else ""
        raise ArtifactMismatchError(
            f"all {len(after)} tensors of {label} are those of the base's text encoder{told}; expected some "
            "that training changed, since this encoder erases nothing; check the source, its subfolder and "
            "its revision"
        )
    deltas = {name: (after[name].double() - before[name].double()).float() for name in changed}
    norms = [
        torch.stack([values[name].double().square().sum() for name in changed]).sum().sqrt()
        for values in (deltas, before)
    ]
    return Difference(deltas, len(after), len(differing) - len(changed), float(norms[0] / norms[1]))


def changed_places(names: tuple[str, ...]) -> str:
    """Where tensors lie, in words: layers as ranges, everything else by its module's name.

    Args:
        names: Canonical names of tensors of a CLIP text encoder.
    """
    found = [_LAYER.match(name) for name in names]
    layers = sorted({int(match[1]) for match in found if match})
    others = [name.rpartition(".")[0] for name, match in zip(names, found, strict=True) if not match]
    ranges: list[list[int]] = []
    for layer in layers:
        if ranges and layer == ranges[-1][1] + 1:
            ranges[-1][1] = layer
        else:
            ranges.append([layer, layer])
    shown = ", ".join(f"{first}-{last}" if last > first else str(first) for first, last in ranges)
    word = "encoder layer" if len(layers) == 1 else "encoder layers"
    return ", ".join([*([f"{word} {shown}"] if layers else []), *dict.fromkeys(others)])


def _base_encoder(pipe: Any) -> Any:
    encoder = getattr(pipe, "text_encoder", None)
    if not isinstance(encoder, CLIPTextModel):
        raise ConfigError(
            f"the base's text_encoder is a {type(encoder).__name__}; expected the CLIPTextModel of a Stable "
            "Diffusion 1 or 2 pipeline; give the base model that the encoder was trained from"
        )
    if record_of(encoder) is not None or seal_of(encoder) is not None:
        raise ErasureStateError(
            "the base's text_encoder carries an erasure already; expected the base itself, or the "
            "difference would be to something else; load the base model anew"
        )
    return encoder


def _foreign_config(source: EncoderSource) -> CLIPTextConfig:
    if source.has(MANIFEST_NAME):
        raise ConfigError(
            f"{source.label} is an artifact already ({MANIFEST_NAME}); expected an encoder's folder without "
            "a manifest; load it as it is"
        )
    path = source.path(CONFIG_FILE)
    raw = read_encoder_config(path)
    if ENTRY_KEY in raw:
        raise ConfigError(
            f"{source.label} is a robust encoder of this package, with an {ENTRY_KEY!r} entry in "
            f"{CONFIG_FILE}; expected one that says nothing of itself; load it with "
            "RobustEncoder.from_pretrained"
        )
    return check_encoder_config(raw, where=str(path))


def _check_same_computation(config: CLIPTextConfig, base: CLIPTextConfig, label: str) -> None:
    for key in STATE_KEYS:
        found, expected = getattr(config, key), getattr(base, key)
        if found != expected:
            raise BaseModelMismatchError(
                f"{label} has {key} = {found!r} in its {CONFIG_FILE}, but the base's text encoder has "
                f"{expected!r}; expected one architecture, since an artifact changes weights alone; give the "
                "base model that the encoder was trained from"
            )


def _check_same_tensors(before: Mapping[str, Tensor], after: Mapping[str, Tensor], label: str) -> None:
    fits = {name: before[name].shape == after[name].shape for name in before.keys() & after.keys()}
    odd = sorted((before.keys() ^ after.keys()) | {name for name, same in fits.items() if not same})
    if odd:
        raise BaseModelMismatchError(
            f"{label} and the base's text encoder differ in the names or shapes of {len(odd)} tensors "
            f"(first: {', '.join(odd[:5])}); expected the same of both; give the base model that the encoder "
            "was trained from"
        )


def _only_rounded(base: Tensor, tensor: Tensor) -> bool:
    """Whether one is the other, rounded to half precision."""
    exact, other = base.double(), tensor.double()
    return any(
        torch.equal(exact.to(dtype).double(), other) or torch.equal(other.to(dtype).double(), exact)
        for dtype in ROUNDED_TYPES.values()
    )


def _public_name(request: LoadRequest) -> str:
    """The Hub id, or a local folder's name: where it lies is private."""
    path = Path(request.source).expanduser()
    return path.resolve().name if path.exists() else request.source


def _records(
    request: LoadRequest, commit: str | None, file: str, sha256: str, difference: Difference
) -> dict[str, SettingRecord]:
    """What is known of the encoder, and what is not, as lines of the manifest."""
    facts = {
        "imported_from": (_public_name(request), "Hub id, or name of the folder, that held the encoder"),
        "imported_subfolder": (request.subfolder, "folder inside of it"),
        "imported_revision": (request.revision, "revision that was asked for"),
        "imported_commit": (commit, "commit that the files came from"),
        "imported_file": (file, "file that held the weights"),
        "imported_sha256": (sha256, "sha256 of that file"),
        "changed_tensors": (f"{len(difference.deltas)} of {difference.total}", "tensors unlike the base's"),
        "changed_places": (difference.places, "where they lie"),
        **{name: (UNKNOWN, meaning) for name, meaning in UNKNOWN_FACTS.items()},
    }
    return {
        name: SettingRecord(value=value, meaning=meaning) for name, (value, meaning) in facts.items() if value
    }


def _notes(difference: Difference) -> tuple[str, ...]:
    if len(difference.deltas) < difference.total:
        return ()
    return (
        "not one tensor is the base's own; robust encoders keep at least their embeddings, so this base may "
        "not be the one that the encoder was trained from",
    )
