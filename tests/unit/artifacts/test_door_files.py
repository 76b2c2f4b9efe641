"""What stands where an artifact should: links, pipes, missing or huge files, other folders."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
import torch

from diffusers_erasure.artifacts.door import load_artifact
from diffusers_erasure.artifacts.manifest import MANIFEST_NAME
from diffusers_erasure.errors import (
    ArtifactFormatError,
    ArtifactNotFoundError,
)
from tests.unit.artifacts.tampering import WEIGHTS, change_header, forge_hashes


def test_an_overwritten_file_does_not_change_what_was_loaded(folder: Path) -> None:
    found = load_artifact(folder)
    before = {name: tensor.clone() for name, tensor in found.edits["text_encoder"].tensors.items()}
    with (folder / WEIGHTS).open("r+b") as file:
        file.write(b"\0" * (folder / WEIGHTS).stat().st_size)
    after = found.edits["text_encoder"].tensors
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_links_into_a_cache_are_followed(folder: Path, tmp_path: Path) -> None:
    linked = tmp_path / "snapshot"
    linked.mkdir()
    for path in folder.iterdir():
        (linked / path.name).symlink_to(path)
    assert load_artifact(linked).digest == load_artifact(folder).digest


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    with pytest.raises(ArtifactNotFoundError, match=WEIGHTS):
        load_artifact(folder)


def test_a_pickle_beside_a_missing_file_is_not_opened(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "text_encoder.bin")
    with pytest.raises(ArtifactNotFoundError, match=WEIGHTS):
        load_artifact(folder)


def test_a_folder_or_pipe_in_place_of_a_file(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).mkdir()
    with pytest.raises(ArtifactFormatError, match="is a folder"):
        load_artifact(folder)
    (folder / WEIGHTS).rmdir()
    os.mkfifo(folder / WEIGHTS)
    with pytest.raises(ArtifactFormatError, match="no regular file"):
        load_artifact(folder)


def test_a_file_of_two_gigabytes_is_refused_unread(folder: Path) -> None:
    with (folder / WEIGHTS).open("r+b") as file:
        file.truncate(2 * 2**30)
    start = time.perf_counter()
    with pytest.raises(ArtifactFormatError, match="at most"):
        load_artifact(folder)
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([], "the folder is empty"),
        (["pytorch_lora_weights.safetensors"], "LoRA"),
        (["model_index.json", "unet/config.json"], "whole pipeline"),
        (["config.json", "model.safetensors"], "single model"),
        (["learned_embeds.safetensors"], "textual inversion"),
        (["weights.bin"], "pickled"),
        (["notes.txt"], "notes.txt"),
        ([f"church/{MANIFEST_NAME}"], "subfolder='church'"),
    ],
)
def test_folders_that_are_something_else(tmp_path: Path, files: list[str], words: str) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(ArtifactNotFoundError, match=words):
        load_artifact(tmp_path)


def test_sources_that_are_no_folder(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactFormatError, match="is a file"):
        load_artifact(folder / WEIGHTS)
    with pytest.raises(ArtifactNotFoundError, match="there is no folder"):
        load_artifact(tmp_path / "missing")
    with pytest.raises(ArtifactNotFoundError, match="there is no folder"):
        load_artifact(tmp_path, subfolder="missing")
    with pytest.raises(ArtifactNotFoundError, match=r"cache|Hub"):
        load_artifact("some/where", cache_dir=tmp_path / "cache")


def test_tensors_are_aligned_wherever_the_header_ends(folder: Path) -> None:
    """A header may have any length; what computes on numbers may need addresses that fit them."""
    before = load_artifact(folder).edits["text_encoder"].tensors
    change_header(folder, lambda header: json.dumps(header) + " " * (1 + len(json.dumps(header)) % 2))
    assert int.from_bytes((folder / WEIGHTS).read_bytes()[:8], "little") % 2
    forge_hashes(folder)
    found = load_artifact(folder).edits["text_encoder"].tensors
    for name, tensor in found.items():
        assert torch.equal(tensor, before[name])
        assert tensor.data_ptr() % tensor.element_size() == 0


def test_a_file_that_grows_while_it_is_read_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Path.stat

    def earlier(path: Path, **options: bool) -> os.stat_result:
        status = found(path, **options)
        if path.name != WEIGHTS:
            return status
        return os.stat_result((*status[:6], status.st_size - 4, *status[7:10]))

    monkeypatch.setattr(Path, "stat", earlier)
    with pytest.raises(ArtifactFormatError, match="changed while it was read"):
        load_artifact(folder)
