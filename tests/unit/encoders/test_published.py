"""Robust encoders as they are published, without safetensors, tokenizer or manifest, load exactly or not."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file
from torch import Tensor

from diffusers_erasure.encoders import RobustEncoder
from diffusers_erasure.errors import (
    ArtifactError,
    ArtifactFormatError,
    ArtifactIntegrityError,
    ArtifactMismatchError,
    ArtifactNotFoundError,
    UnverifiedArtifactError,
)
from tests.unit.artifacts.test_hub import COMMIT, REPO, FakeHub
from tests.unit.encoders.published import FC1, POSITION_IDS, Tensors, publish, published_tensors, retrained

SUBFOLDERS = ("nudity_unlearned", "church_unlearned")
unverified = pytest.mark.filterwarnings("ignore:.*loaded unverified:UserWarning")


@pytest.fixture
def repository(tiny_pipe: StableDiffusionPipeline, tmp_path: Path) -> Path:
    """A folder with two encoders in the published layout."""
    for seed, name in enumerate(SUBFOLDERS):
        publish(tiny_pipe.text_encoder, tmp_path / "pub" / name, lambda t, seed=seed: retrained(t, seed=seed))
    return tmp_path / "pub"


def assert_equal(encoder: RobustEncoder, expected: Tensors) -> None:
    state = encoder.state_dict()
    expected = {key.removeprefix("text_model."): v for key, v in expected.items() if key != POSITION_IDS}
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key], expected[key]) for key in expected)


def test_each_subfolder_loads_with_permission(tiny_pipe: StableDiffusionPipeline, repository: Path) -> None:
    for seed, name in enumerate(SUBFOLDERS):
        with pytest.raises(UnverifiedArtifactError, match="allow_unverified=True"):
            RobustEncoder.from_pretrained(repository, subfolder=name)
        with pytest.warns(UserWarning, match="unverified"):
            encoder = RobustEncoder.from_pretrained(repository, subfolder=name, allow_unverified=True)
        assert_equal(encoder, retrained(published_tensors(tiny_pipe.text_encoder), seed=seed))
        assert encoder.dtype == torch.float32
        assert not encoder.training
        assert encoder.erasure is not None
        assert not encoder.erasure.verified
        assert encoder.erasure.method == "unknown"


@unverified
def test_it_draws_in_the_pipeline_and_saves_as_safetensors(
    tiny_pipe: StableDiffusionPipeline, repository: Path, tmp_path: Path, draw: Callable[..., Tensor]
) -> None:
    before = draw(tiny_pipe, "church")
    encoder = RobustEncoder.from_pretrained(repository / SUBFOLDERS[1], allow_unverified=True)
    tiny_pipe.text_encoder = encoder
    assert not torch.equal(draw(tiny_pipe, "church"), before)
    encoder.save_pretrained(tmp_path / "again")
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]


@unverified
def test_overwriting_the_file_does_not_reach_loaded_weights(repository: Path) -> None:
    encoder = RobustEncoder.from_pretrained(repository / SUBFOLDERS[0], allow_unverified=True)
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    path = repository / SUBFOLDERS[0] / "pytorch_model.bin"
    with path.open("r+b") as file:
        file.write(b"\x42" * path.stat().st_size)
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())


@unverified
def test_safetensors_are_read_where_there_are_both(
    tiny_pipe: StableDiffusionPipeline, repository: Path
) -> None:
    folder = repository / SUBFOLDERS[0]
    expected = published_tensors(tiny_pipe.text_encoder)
    save_file(dict(expected), folder / "model.safetensors")
    assert_equal(RobustEncoder.from_pretrained(folder, allow_unverified=True), expected)


def _with(name: str, value: Callable[[Tensor], Tensor]) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {**tensors, name: value(tensors[name])}


WEIGHT_FAULTS: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "a key missing": (lambda t: {k: v for k, v in t.items() if k != FC1}, r"1 missing \(first: .*fc1"),
    "a surplus key": (lambda t: {**t, "text_model.extra": torch.ones(2)}, r"1 unexpected \(first: .*extra"),
    "keys of a trainer": (
        lambda t: {f"module.{k}": v for k, v in t.items()},
        r"36 missing .* and 37 unexpected",
    ),
    "half of the keys prefixed": (
        lambda t: {k if i % 2 else k.removeprefix("text_model."): v for i, (k, v) in enumerate(t.items())},
        "prefix on all keys or on none",
    ),
    "another shape": (_with(FC1, lambda w: w[:-1].clone()), "shape"),
    "a transposed weight": (_with(FC1, lambda w: w.T), "shape"),
    "NaN": (_with(FC1, lambda w: torch.full_like(w, torch.nan)), "not finite"),
    "infinity": (_with(FC1, lambda w: torch.full_like(w, torch.inf)), "not finite"),
    "zeros": (_with(FC1, torch.zeros_like), "all zero"),
    "integers": (_with(FC1, lambda w: w.long()), "dtype torch.int64"),
    "positions out of order": (_with(POSITION_IDS, lambda p: p.flip(1)), "position_ids"),
    "too many positions": (_with(POSITION_IDS, lambda p: torch.arange(77).reshape(1, -1)), "position_ids"),
}


@pytest.mark.parametrize("fault", WEIGHT_FAULTS)
def test_permission_does_not_excuse_faulty_weights(
    tiny_pipe: StableDiffusionPipeline, tmp_path: Path, fault: str
) -> None:
    change, message = WEIGHT_FAULTS[fault]
    folder = publish(tiny_pipe.text_encoder, tmp_path / "faulty", change)
    with pytest.raises(ArtifactMismatchError, match=message):
        RobustEncoder.from_pretrained(folder, allow_unverified=True)


class Runs:
    """An object whose pickle runs a command when it is read the usual way."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.mark}",)


def test_a_pickle_that_runs_code_is_refused_and_not_run(repository: Path, tmp_path: Path) -> None:
    mark, folder = tmp_path / "ran", repository / SUBFOLDERS[0]
    with zipfile.ZipFile(folder / "pytorch_model.bin", "w") as archive:
        archive.writestr("pytorch_model/data.pkl", pickle.dumps({FC1: Runs(mark)}, protocol=2))
    with pytest.raises(ArtifactFormatError, match=f"the name '{os.name} system'"):
        RobustEncoder.from_pretrained(folder, allow_unverified=True)
    assert not mark.exists()


def test_other_lacks_are_named(repository: Path) -> None:
    folder = repository / SUBFOLDERS[0]
    (folder / "pytorch_model.bin.index.json").write_text("{}")
    with pytest.raises(ArtifactFormatError, match="shards"):
        RobustEncoder.from_pretrained(folder, allow_unverified=True)
    (folder / "pytorch_model.bin.index.json").unlink()
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(ArtifactNotFoundError, match=r"no model\.safetensors"):
        RobustEncoder.from_pretrained(folder, allow_unverified=True)
    (folder / "config.json").unlink()
    with pytest.raises(ArtifactNotFoundError, match=r"no config\.json"):
        RobustEncoder.from_pretrained(folder, allow_unverified=True)
    with pytest.raises(ArtifactNotFoundError, match="subfolder"):
        RobustEncoder.from_pretrained(repository, allow_unverified=True)


def test_a_config_of_other_sizes_is_refused(tiny_pipe: StableDiffusionPipeline, tmp_path: Path) -> None:
    folder = publish(tiny_pipe.text_encoder, tmp_path / "odd", num_hidden_layers=3)
    with pytest.raises(ArtifactError, match="16 missing"):
        RobustEncoder.from_pretrained(folder, allow_unverified=True)
    config = json.loads((folder / "config.json").read_text())
    assert config["num_hidden_layers"] == 3


@pytest.fixture
def hub(repository: Path, serve_hub: Callable[[object], None]) -> FakeHub:
    """The same repository on the Hub."""
    files = {str(p.relative_to(repository)): p.read_bytes() for p in repository.rglob("*") if p.is_file()}
    fake = FakeHub(files)
    serve_hub(fake)
    return fake


@unverified
def test_it_loads_from_the_hub(hub: FakeHub, tiny_pipe: StableDiffusionPipeline, tmp_path: Path) -> None:
    encoder = RobustEncoder.from_pretrained(
        REPO, subfolder=SUBFOLDERS[1], revision=COMMIT, cache_dir=tmp_path / "cache", allow_unverified=True
    )
    assert_equal(encoder, retrained(published_tensors(tiny_pipe.text_encoder), seed=1))
    wanted = [f"{COMMIT}/{SUBFOLDERS[1]}/{name}" for name in ("config.json", "pytorch_model.bin")]
    assert hub.gets == wanted


@unverified
def test_a_damaged_download_is_refused(
    hub: FakeHub, tiny_pipe: StableDiffusionPipeline, tmp_path: Path
) -> None:
    table = tiny_pipe.text_encoder.get_input_embeddings().weight.detach().numpy().tobytes()
    hub.spoil = lambda name, data, _: data.replace(table, table[:-1] + b"\x42")
    told = f"of {REPO} at revision {COMMIT} differs from the hash that the Hub gave it"
    with pytest.raises(ArtifactIntegrityError, match=told):
        RobustEncoder.from_pretrained(
            REPO, subfolder=SUBFOLDERS[1], cache_dir=tmp_path / "cache", allow_unverified=True
        )
