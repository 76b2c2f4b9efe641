"""Every fault of a text encoder's folder is refused, by our own errors, before anything is built from it."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffusers_erasure.encoders import RobustEncoder, saving
from diffusers_erasure.errors import (
    ArtifactError,
    ArtifactFormatError,
    ArtifactIntegrityError,
    ArtifactMismatchError,
    ArtifactNotFoundError,
    ArtifactVersionError,
    ConfigError,
    UnverifiedArtifactError,
)
from tests.device.second_device import second_device

ERASURE = {"method": "advunlearn", "concepts": ["church"], "base_model": "embedded"}
Tensors = dict[str, Tensor]


@pytest.fixture
def folder(tiny_pipe: StableDiffusionPipeline, tmp_path: Path) -> Path:
    """A robust encoder's folder of this test's own."""
    RobustEncoder.from_encoder(tiny_pipe.text_encoder, erasure=ERASURE).save_pretrained(tmp_path / "encoder")
    return tmp_path / "encoder"


def rewrite_weights(folder: Path, change: Callable[[Tensors], Tensors]) -> None:
    """Change what the weight file holds."""
    tensors = {key: value.clone() for key, value in load_file(folder / "model.safetensors").items()}
    save_file(change(tensors), folder / "model.safetensors", metadata={"format": "pt"})


def rewrite_config(folder: Path, **changes: Any) -> None:
    """Change entries of the config; None removes one."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config.update(changes)
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def without_erasure(folder: Path) -> None:
    """Make it a stock encoder's folder."""
    rewrite_config(folder, erasure=None)


def test_both_key_layouts_load_equal(tiny_pipe: StableDiffusionPipeline, folder: Path) -> None:
    keys = load_file(folder / "model.safetensors").keys()
    assert all(key.startswith("text_model.") for key in keys)
    prefixed = RobustEncoder.from_pretrained(folder)
    rewrite_weights(folder, lambda t: {key.removeprefix("text_model."): value for key, value in t.items()})
    flat = RobustEncoder.from_pretrained(folder)
    stock = tiny_pipe.text_encoder.state_dict()
    for encoder in (prefixed, flat):
        assert all(torch.equal(value, stock[key]) for key, value in encoder.state_dict().items())


def test_old_position_counter_is_accepted_and_checked(folder: Path) -> None:
    positions = torch.arange(24).reshape(1, -1)
    rewrite_weights(folder, lambda t: {**t, "text_model.embeddings.position_ids": positions})
    RobustEncoder.from_pretrained(folder)
    rewrite_weights(folder, lambda t: {**t, "text_model.embeddings.position_ids": positions.flip(1)})
    with pytest.raises(ArtifactMismatchError, match="position_ids"):
        RobustEncoder.from_pretrained(folder)


def _drop_one(tensors: Tensors) -> Tensors:
    return dict(list(tensors.items())[1:])


def _with(name: str, value: Callable[[Tensor], Tensor]) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {**tensors, name: value(tensors[name])}


FC1 = "text_model.encoder.layers.0.mlp.fc1.weight"
WEIGHT_FAULTS: dict[str, Callable[[Tensors], Tensors]] = {
    "one key missing": _drop_one,
    "keys prefixed model.": lambda t: {f"model.{k}": v for k, v in t.items()},
    "keys prefixed module.": lambda t: {f"module.{k}": v for k, v in t.items()},
    "keys prefixed text_encoder.": lambda t: {f"text_encoder.{k}": v for k, v in t.items()},
    "half of the keys prefixed": lambda t: {
        (k if index % 2 else k.removeprefix("text_model.")): v for index, (k, v) in enumerate(t.items())
    },
    "extra key": lambda t: {**t, "text_model.extra": torch.ones(2)},
    "wrong shape": _with(FC1, lambda w: w[:-1].clone()),
    "int64": _with(FC1, lambda w: w.long()),
    "int8": _with(FC1, lambda w: w.to(torch.int8)),
    "nan": _with(FC1, lambda w: torch.full_like(w, torch.nan)),
    "inf": _with(FC1, lambda w: w.clone().fill_(torch.inf)),
    "all zero": _with(FC1, torch.zeros_like),
    "one value changed": _with(FC1, lambda w: w + 1e-3),
    "another dtype of one tensor": _with(FC1, lambda w: w.half()),
}


@pytest.mark.parametrize("fault", WEIGHT_FAULTS)
def test_faulty_weights_are_refused(folder: Path, fault: str) -> None:
    rewrite_weights(folder, WEIGHT_FAULTS[fault])
    with pytest.raises(ArtifactError, match=";"):
        RobustEncoder.from_pretrained(folder)


@pytest.mark.parametrize(
    "fault",
    [name for name in WEIGHT_FAULTS if name not in ("one value changed", "another dtype of one tensor")],
)
def test_permission_does_not_excuse_faulty_weights(folder: Path, fault: str) -> None:
    without_erasure(folder)
    rewrite_weights(folder, WEIGHT_FAULTS[fault])
    with pytest.raises(ArtifactError, match=";"):
        RobustEncoder.from_pretrained(folder, allow_unverified=True)


def test_missing_keys_are_counted_and_named(folder: Path) -> None:
    rewrite_weights(folder, lambda t: {k: v for k, v in t.items() if "layers.1." not in k})
    with pytest.raises(
        ArtifactMismatchError, match=r"16 missing \(first: 'text_model\.encoder\.layers\.1\."
    ) as caught:
        RobustEncoder.from_pretrained(folder)
    assert str(caught.value).count("'text_model.") == 5


CONFIG_FAULTS: dict[str, dict[str, Any]] = {
    "5,000 layers": {"num_hidden_layers": 5_000},
    "200,000 layers": {"num_hidden_layers": 200_000},
    "77e6 positions": {"max_position_embeddings": 77_000_000},
    "positions as float": {"max_position_embeddings": 24.0},
    "huge vocabulary": {"vocab_size": 2**40},
    "huge width": {"hidden_size": 2**20},
    "large in total": {"hidden_size": 4096, "intermediate_size": 16384, "num_hidden_layers": 64},
    "negative": {"hidden_size": -8},
    "true for a number": {"num_hidden_layers": True},
    "fewer layers": {"num_hidden_layers": 1},
    "more layers": {"num_hidden_layers": 3},
    "heads do not divide": {"num_attention_heads": 3},
    "other heads": {"num_attention_heads": 4},
    "no heads": {"num_attention_heads": 0},
    "eps 1e9": {"layer_norm_eps": 1e9},
    "eps zero": {"layer_norm_eps": 0},
    "eps text": {"layer_norm_eps": "1e-5"},
    "other eps": {"layer_norm_eps": 1e-4},
    "activation relu": {"hidden_act": "relu"},
    "activation list": {"hidden_act": ["gelu"]},
    "other activation": {"hidden_act": "gelu"},
    "eos out of range": {"eos_token_id": 10**9},
    "other eos": {"eos_token_id": 3},
    "eos list": {"eos_token_id": [1, 2]},
    "other model type": {"model_type": "bert"},
    "other architecture": {"architectures": ["BertModel"]},
    "quantisation": {"quantization_config": {"load_in_8bit": True}},
    "remote code": {"auto_map": {"AutoModel": "evil.py--Model"}},
    "kernel repository": {"attn_implementation": "owner/kernel"},
    "private kernel field": {"_attn_implementation": "owner/kernel"},
    "unknown key": {"surprise": 1},
    "dropout": {"attention_dropout": 2.0},
    "no sizes": {"hidden_size": None},
}


@pytest.mark.parametrize("fault", CONFIG_FAULTS)
def test_hostile_configs_are_refused_at_once(folder: Path, fault: str) -> None:
    rewrite_config(folder, **CONFIG_FAULTS[fault])
    start = time.perf_counter()
    with pytest.raises(ArtifactError, match=";"):
        RobustEncoder.from_pretrained(folder)
    assert time.perf_counter() - start < 1.0


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1, "a": 2}',
        '{"layer_norm_eps": NaN}',
        "[" * 100_000,
        "[]",
        "",
        "{",
        "\xff",
        '{"x": "' + "y" * 2_000_000 + '"}',
    ],
    ids=["twice", "nan", "deep", "list", "empty", "cut", "bytes", "long"],
)
def test_config_that_is_not_strict_json_is_refused(folder: Path, text: str) -> None:
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ArtifactError, match=";"):
        RobustEncoder.from_pretrained(folder)


@pytest.mark.parametrize("size", [0, 7, 100, -1])
def test_cut_weight_files_are_refused(folder: Path, size: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ArtifactFormatError, match="safetensors"):
        RobustEncoder.from_pretrained(folder)


def test_flipped_bits_are_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    good = path.read_bytes()
    for position in range(len(good) - 400, len(good), 40):
        bad = bytearray(good)
        bad[position] ^= 1
        path.write_bytes(bad)
        with pytest.raises(ArtifactIntegrityError, match="fingerprint"):
            RobustEncoder.from_pretrained(folder)


def test_overwriting_the_file_does_not_reach_loaded_weights(folder: Path) -> None:
    encoder = RobustEncoder.from_pretrained(folder)
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    path = folder / "model.safetensors"
    with path.open("r+b") as file:
        file.seek(-1000, os.SEEK_END)
        file.write(b"\x42" * 1000)
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())


def test_encoder_without_entry_needs_permission(folder: Path) -> None:
    without_erasure(folder)
    with pytest.raises(UnverifiedArtifactError, match="allow_unverified=True"):
        RobustEncoder.from_pretrained(folder)
    with pytest.warns(UserWarning, match="unverified"):
        encoder = RobustEncoder.from_pretrained(folder, allow_unverified=True)
    assert encoder.erasure is not None
    assert not encoder.erasure.verified
    assert "loaded unverified" in encoder.erasure.note


def test_changed_encoder_loads_only_with_permission_and_says_so(folder: Path) -> None:
    rewrite_weights(folder, WEIGHT_FAULTS["one value changed"])
    with pytest.warns(UserWarning, match="fingerprint"):
        encoder = RobustEncoder.from_pretrained(folder, allow_unverified=True)
    assert encoder.erasure is not None
    assert not encoder.erasure.verified


@pytest.mark.parametrize(
    ("entry", "error"),
    [
        ({}, ArtifactFormatError),
        ("church", ArtifactFormatError),
        ({"format_version": 2, "library_version": "9.0"}, ArtifactVersionError),
        ({"format_version": 1, "surprise": 1}, ArtifactFormatError),
    ],
)
def test_entry_that_cannot_be_read_is_refused(folder: Path, entry: object, error: type[Exception]) -> None:
    rewrite_config(folder, erasure=entry)
    with pytest.raises(error, match=";"):
        RobustEncoder.from_pretrained(folder)


def test_other_names_and_shards_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ArtifactFormatError, match=r"torch\.save"):
        RobustEncoder.from_pretrained(folder, allow_unverified=True)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../../outside"}}')
    with pytest.raises(ArtifactFormatError, match="shards"):
        RobustEncoder.from_pretrained(folder)


def test_wrong_places_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="whole pipeline"):
        RobustEncoder.from_pretrained("embedded")
    with pytest.raises(ArtifactNotFoundError, match="check the spelling"):
        RobustEncoder.from_pretrained(tmp_path / "nothing" / "here")
    with pytest.raises(ArtifactNotFoundError, match="subfolder"):
        RobustEncoder.from_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="leaves the repository"):
        RobustEncoder.from_pretrained(folder, subfolder="../..")
    assert RobustEncoder.from_pretrained(tmp_path, subfolder="encoder").erasure is not None


@pytest.mark.parametrize(
    "arguments",
    [
        {"ignore_mismatched_sizes": True},
        {"trust_remote_code": True},
        {"use_safetensors": False},
        {"device_map": "auto"},
        {"device_map": "meta"},
        {"device_map": {"": "disk"}},
        {"device_map": {"text_model": "cpu"}},
        {"dtype": "int8"},
        {"attn_implementation": "owner/kernel"},
        {"base": "somewhere"},
    ],
    ids=str,
)
def test_arguments_that_would_weaken_loading_are_refused(folder: Path, arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=";"):
        RobustEncoder.from_pretrained(folder, **arguments)


@pytest.mark.parametrize("dtype", [torch.float16, "bfloat16", "auto", None])
def test_dtype_is_what_was_asked_for(folder: Path, dtype: torch.dtype | str | None) -> None:
    wanted = {"bfloat16": torch.bfloat16, torch.float16: torch.float16}.get(dtype, torch.float32)  # type: ignore[arg-type]
    encoder = RobustEncoder.from_pretrained(folder, dtype=dtype)
    assert encoder.dtype == wanted
    assert not encoder.training
    assert encoder.erasure is not None
    assert encoder.erasure.verified


def test_saving_over_an_encoder_replaces_it(tiny_pipe: StableDiffusionPipeline, folder: Path) -> None:
    with torch.no_grad():
        tiny_pipe.text_encoder.final_layer_norm.weight.mul_(2)
    other = RobustEncoder.from_encoder(tiny_pipe.text_encoder, erasure={**ERASURE, "concepts": ["dog"]})
    other.save_pretrained(folder)
    again = RobustEncoder.from_pretrained(folder)
    assert again.erasure is not None
    assert again.erasure.concepts == ("dog",)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["encoder"]


@pytest.mark.parametrize("there", [False, True])
def test_saving_that_fails_leaves_what_was_there(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    """Also what is not the encoder's: a card, the other parts of a pipeline."""
    (folder / "README.md").write_text("# card", encoding="utf-8")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    encoder = RobustEncoder.from_pretrained(folder)

    def no_space(tensors: Tensors, path: Path, metadata: dict[str, str]) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(saving, "save_file", no_space)
        with pytest.raises(OSError, match="No space"):
            encoder.save_pretrained(folder if there else tmp_path / "new")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["encoder"]
    encoder.save_pretrained(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("place", ["cpu", torch.device("cpu"), {"": "cpu"}, None], ids=str)
def test_one_device_is_taken(folder: Path, place: Any) -> None:
    encoder = RobustEncoder.from_pretrained(folder, device_map=place)
    assert {parameter.device.type for parameter in encoder.parameters()} == {"cpu"}
    assert encoder.erasure.verified


def test_it_goes_to_the_device_that_is_asked_for(folder: Path) -> None:
    with second_device() as device:
        encoder = RobustEncoder.from_pretrained(folder, device_map={"": device})
        assert {parameter.device for parameter in encoder.parameters()} == {device}
        assert encoder.erasure.verified
