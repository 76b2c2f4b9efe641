"""Checkpoints: complete or not there, and refused when anything about them is wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from diffusers_erasure import durable
from diffusers_erasure.errors import TrainingError
from diffusers_erasure.training import checkpoint as module
from diffusers_erasure.training.checkpoint import Checkpoint, CheckpointFolder, check_agrees, read_checkpoint


def made(step: int) -> Checkpoint:
    tensors: dict[str, dict[str, Tensor]] = {
        "parameters": {"a.weight": torch.full((2, 3), float(step)), "b": torch.tensor(float("nan"))},
        "optimizer": {"exp_avg:a.weight": torch.arange(6.0).reshape(2, 3).T},
    }
    return Checkpoint(step, tensors, {"seed": 3, "concept": ["dog"]}, {"scaler": None})


def test_it_comes_back_as_it_was_written_and_holds_no_pickle(tmp_path: Path) -> None:
    path = CheckpointFolder(tmp_path).save(made(4))
    assert path == tmp_path / "checkpoint-4"
    assert {file.suffix for file in path.iterdir()} == {".safetensors", ".json"}
    found, wanted = read_checkpoint(path), made(4)
    assert (found.step, found.agreed, found.extras) == (wanted.step, wanted.agreed, wanted.extras)
    for name, tensors in wanted.tensors.items():
        assert set(found.tensors[name]) == set(tensors)
        for key, tensor in tensors.items():
            assert torch.equal(found.tensors[name][key].nan_to_num(7), tensor.nan_to_num(7))


def test_latest_is_the_highest_number_and_the_limit_removes_the_oldest(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, limit=2)
    assert folder.find("latest") is None
    for step in (9, 10, 100):
        folder.save(made(step))
    assert [path.name for path in folder.paths()] == ["checkpoint-10", "checkpoint-100"]
    assert folder.find("latest") == tmp_path / "checkpoint-100"
    assert folder.find("checkpoint-10") == folder.find(str(tmp_path / "checkpoint-10"))
    with pytest.raises(
        TrainingError, match=r"'checkpoint-9' is no checkpoint.*checkpoint-10, checkpoint-100"
    ):
        folder.find("checkpoint-9")


@pytest.mark.parametrize(("limit", "left"), [(1, ["600"]), (2, ["600", "1000"]), (3, ["500", "600", "1000"])])
def test_what_was_just_saved_is_never_removed(tmp_path: Path, limit: int, left: list[str]) -> None:
    """A run that went on from an earlier checkpoint saves below later ones."""
    folder = CheckpointFolder(tmp_path, limit=None)
    for step in (500, 1000):
        folder.save(made(step))
    CheckpointFolder(tmp_path, limit=limit).save(made(600))
    assert [path.name.removeprefix("checkpoint-") for path in folder.paths()] == left


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, limit=1)
    folder.save(made(4))
    again = Checkpoint(4, {"parameters": {"a.weight": torch.zeros(1)}}, {}, {})
    assert torch.equal(read_checkpoint(folder.save(again)).tensors["parameters"]["a.weight"], torch.zeros(1))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-4"]


@pytest.mark.parametrize(
    ("room", "name"),
    [
        (module, "save_file"),
        (module, "_check_written"),
        (module, "file_sha256"),
        (durable, "sync"),
    ],
)
@pytest.mark.parametrize("at", [1, 2])
def test_a_save_that_fails_anywhere_leaves_the_older_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: Any, name: str, at: int
) -> None:
    folder = CheckpointFolder(tmp_path, limit=1)
    folder.save(made(4))
    work, calls = getattr(room, name), []

    def fail(*arguments: object) -> object:
        calls.append(1)
        if len(calls) == at:
            raise OSError("no space left on device")
        return work(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(room, name, fail)
        with pytest.raises(OSError, match="no space left"):
            folder.save(made(5))
    latest = folder.find("latest")
    assert latest is not None
    assert read_checkpoint(latest).step in (4, 5)
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_what_a_killed_save_left_is_swept_away(tmp_path: Path) -> None:
    left = tmp_path / f".checkpoint-3.partial-{os.getpid()}-ab"
    left.mkdir()
    (tmp_path / "notes").mkdir()
    CheckpointFolder(tmp_path).save(made(4))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-4", "notes"]


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def _reseal(path: Path, key: str, value: object) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    content[key] = value
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: _flip(path / "optimizer.safetensors"), "optimizer.safetensors is missing or has other"),
        (lambda path: (path / "parameters.safetensors").unlink(), "parameters.safetensors is missing"),
        (lambda path: (path / "state.json").unlink(), "has no state.json"),
        (lambda path: (path / "state.json").write_bytes(b"{"), "text that is not JSON"),
        (lambda path: _reseal(path / "state.json", "step", 5), "state.json was changed"),
        (lambda path: _reseal(path / "state.json", "format", 2), "not in format 1"),
    ],
)
def test_damage_is_refused(tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    path = CheckpointFolder(tmp_path).save(made(4))
    damage(path)
    with pytest.raises(TrainingError, match=f"cannot be used: .*{message}.*resume from another"):
        read_checkpoint(path)


def test_every_difference_to_another_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError) as refused:
        check_agrees({"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 4, "d": 5}, origin=tmp_path)
    for part in ("b was 2, now 4", "c was 3, now None", "d was None, now 5"):
        assert part in str(refused.value)
    assert "a was" not in str(refused.value)
    check_agrees({"a": 1}, {"a": 1}, origin=tmp_path)
