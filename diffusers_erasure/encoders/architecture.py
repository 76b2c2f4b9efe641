"""A text encoder's `config.json`: read as hostile data, checked before anything is built from it.

A config decides how much memory a model takes, which code runs and what the same weights compute. So the
file is parsed strictly, every key must be on a list, every number has bounds, and only then is a
`CLIPTextConfig` made, from the listed keys alone. Nothing here needs the weights; a refused config costs no
more than reading it.

    ARCHITECTURE_BOUNDS   keys that decide what is computed, with the values that are accepted
    INERT_KEYS            keys that other versions write and that change nothing here: accepted, dropped
    read_encoder_config   file -> dict (strict JSON, at most 1 MB)
    check_encoder_config  dict -> CLIPTextConfig
    architecture_digest   sha256 over the keys that decide what is computed
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import CLIPTextConfig

from diffusers_erasure.artifacts.jsontext import parse_json
from diffusers_erasure.errors import ArtifactFormatError, ArtifactMismatchError, ArtifactNotFoundError

CONFIG_FILE = "config.json"
MAX_CONFIG_BYTES = 1_000_000
STOCK_MODEL_TYPE = "clip_text_model"
STOCK_TOKEN_IDS = 49_408
"""Vocabulary of the published CLIP models: toy models keep its token ids in a smaller vocabulary."""

ARCHITECTURE_BOUNDS: Mapping[str, tuple[int, int]] = {
    "vocab_size": (1, 1_000_000),
    "hidden_size": (1, 4096),
    "intermediate_size": (1, 16_384),
    "num_hidden_layers": (1, 64),
    "num_attention_heads": (1, 128),
    "max_position_embeddings": (1, 4096),
    "projection_dim": (1, 4096),
}
REQUIRED_KEYS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
)
MAX_PARAMETERS = 1_500_000_000
REAL_BOUNDS: Mapping[str, tuple[float, float]] = {
    "layer_norm_eps": (1e-12, 1e-2),
    "attention_dropout": (0.0, 1.0),
    "initializer_range": (0.0, 1.0),
    "initializer_factor": (0.0, 100.0),
}
ACTIVATIONS = ("quick_gelu", "gelu")
TOKEN_ID_KEYS = ("pad_token_id", "bos_token_id", "eos_token_id")
ARCHITECTURE_KEYS = (
    *ARCHITECTURE_BOUNDS,
    "hidden_act",
    *REAL_BOUNDS,
    *TOKEN_ID_KEYS,
)
"""Everything that is passed on to `CLIPTextConfig`."""
COMPUTING_KEYS = tuple(
    key
    for key in ARCHITECTURE_KEYS
    if key not in ("initializer_range", "initializer_factor", "attention_dropout")
)
"""The part of it that decides what finished weights compute."""
ARCHITECTURES = (
    "CLIPTextModel",
    "CLIPTextModelWithProjection",
    "RobustEncoder",
    "RobustEncoderWithProjection",
)
INERT_KEYS = frozenset(
    {
        "_commit_hash",
        "_name_or_path",
        "architectures",
        "dropout",
        "dtype",
        "erasure",
        "gradient_checkpointing",
        "model_type",
        "tie_word_embeddings",
        "torch_dtype",
        "transformers_version",
        "use_cache",
    }
)


def read_encoder_config(path: Path) -> dict[str, Any]:
    """Parse a `config.json` strictly: one object, no key twice, no NaN, at most 1 MB."""
    if not path.is_file():
        raise ArtifactNotFoundError(
            f"{path} does not exist; a text encoder folder has {CONFIG_FILE} and model.safetensors; give the "
            "encoder's own folder (for a whole pipeline: subfolder='text_encoder')"
        )
    with path.open("rb") as file:
        config = parse_json(file.read(MAX_CONFIG_BYTES + 1), origin=str(path), max_bytes=MAX_CONFIG_BYTES)
    if not isinstance(config, dict):
        raise ArtifactFormatError(f"{path} holds a {type(config).__name__}, not a JSON object; save it again")
    return config


def check_encoder_config(config: Mapping[str, Any], *, where: str) -> CLIPTextConfig:
    """Make a `CLIPTextConfig` from a parsed `config.json`, or say which entry cannot be accepted.

    Args:
        config: Parsed file.
        where: File name for messages.
    """
    unknown = sorted(str(key) for key in config if key not in ARCHITECTURE_KEYS and key not in INERT_KEYS)
    if unknown:
        raise _refusal(
            where, f"has keys that a CLIP text encoder does not need: {_listed(unknown)}", "remove them"
        )
    _check_kind(config, where)
    absent = [key for key in REQUIRED_KEYS if key not in config]
    if absent:
        raise _refusal(where, f"lacks {_listed(absent)}", "save the encoder again")
    values = {key: config[key] for key in ARCHITECTURE_KEYS if key in config}
    for key, bounds in ARCHITECTURE_BOUNDS.items():
        if key in values and not (key == "projection_dim" and values[key] is None):
            _check_number(values[key], key, bounds, where, integer=True)
    _check_behaviour(values, where)
    _check_size(values, where)
    for key in REAL_BOUNDS:
        if key in values:
            values[key] = float(values[key])
    return CLIPTextConfig(**values)


def architecture_digest(config: CLIPTextConfig) -> str:
    """Sha256 over the entries that decide what the weights compute: epsilon, activation, heads, token ids."""
    entries = {key: getattr(config, key) for key in COMPUTING_KEYS}
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()


def _check_kind(config: Mapping[str, Any], where: str) -> None:
    model_type = config.get("model_type", STOCK_MODEL_TYPE)
    if model_type != STOCK_MODEL_TYPE:
        raise _refusal(
            where, f"is a {model_type!r}, not a {STOCK_MODEL_TYPE!r}", "give a CLIP text encoder's folder"
        )
    architectures = config.get("architectures") or []
    if not isinstance(architectures, list) or not all(name in ARCHITECTURES for name in architectures):
        raise _refusal(
            where, f"names architectures {architectures!r}, not one of {ARCHITECTURES}", "save it again"
        )


def _check_behaviour(values: Mapping[str, Any], where: str) -> None:
    """Entries that leave every shape as it is and still change what the weights compute."""
    if values["hidden_size"] % values["num_attention_heads"]:
        raise _refusal(
            where,
            f"hidden_size {values['hidden_size']} is not a multiple of num_attention_heads "
            f"{values['num_attention_heads']}",
            "restore the published config",
        )
    if values.get("hidden_act", ACTIVATIONS[0]) not in ACTIVATIONS:
        raise _refusal(
            where, f"hidden_act is {values['hidden_act']!r}, not one of {ACTIVATIONS}", "restore it"
        )
    for key, bounds in REAL_BOUNDS.items():
        if key in values:
            _check_number(values[key], key, bounds, where)
    last_token = max(values["vocab_size"], STOCK_TOKEN_IDS) - 1
    for key in TOKEN_ID_KEYS:
        if values.get(key) is not None:
            _check_number(values[key], key, (0, last_token), where, integer=True)


def _check_size(values: Mapping[str, Any], where: str) -> None:
    width, inner = values["hidden_size"], values["intermediate_size"]
    layers = values["num_hidden_layers"] * (4 * width * width + 2 * width * inner)
    total = layers + (values["vocab_size"] + values.get("max_position_embeddings", 77)) * width
    if total > MAX_PARAMETERS:
        raise _refusal(
            where,
            f"describes {total:,} parameters, more than {MAX_PARAMETERS:,}",
            "restore the published config",
        )


def _check_number(
    value: object, key: str, bounds: tuple[float, float], where: str, *, integer: bool = False
) -> None:
    wanted = "an integer" if integer else "a number"
    kinds = (int,) if integer else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not math.isfinite(value):
        raise _refusal(where, f"{key} is {value!r}, not {wanted}", "restore the published config")
    if not bounds[0] <= value <= bounds[1]:
        raise _refusal(
            where, f"{key} is {value!r}, outside {bounds[0]} to {bounds[1]}", "restore the published config"
        )


def _refusal(where: str, fault: str, repair: str) -> ArtifactMismatchError:
    return ArtifactMismatchError(
        f"{where} {fault}; only the architecture of a plain CLIP text encoder is accepted; {repair}"
    )


def _listed(names: list[str]) -> str:
    shown = ", ".join(repr(name[:60]) for name in names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
