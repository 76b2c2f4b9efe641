"""Saving: all or nothing, whenever the process dies."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from diffusers_erasure import durable
from diffusers_erasure.artifacts import store
from diffusers_erasure.artifacts.artifact import Artifact
from diffusers_erasure.artifacts.documents import read_document
from diffusers_erasure.artifacts.door import load_artifact
from diffusers_erasure.artifacts.manifest import MANIFEST_NAME
from diffusers_erasure.artifacts.store import attach_file, save_artifact
from diffusers_erasure.errors import (
    ArtifactError,
    ArtifactIntegrityError,
    ArtifactMismatchError,
    ArtifactNotFoundError,
    ConfigError,
)
from tests.unit.artifacts.conftest import make_artifact, text_edit

KILL_POINTS = 24
WATCHED = ("store.py", "durable.py", "shutil.py")


@pytest.fixture(scope="session")
def newer(tiny_pipeline: Any) -> Artifact:
    return make_artifact(tiny_pipeline, {"text_encoder": text_edit(tiny_pipeline, 77)}, concept="newer")


def in_child(work: Callable[[], None], *, kill_at: int) -> int:
    """Run in a forked process that kills itself at the n-th line of the save; returns the lines it ran."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        lines = 0

        def watch(frame: Any, event: str, argument: Any) -> Any:
            nonlocal lines
            if not frame.f_code.co_filename.endswith(WATCHED):
                return None
            if event == "line":
                lines += 1
                if lines == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
            return watch

        try:
            sys.settrace(watch)
            work()
            sys.settrace(None)
            os.write(writer, str(lines).encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as pipe:
        return int(pipe.read() or -1)


def points(total: int) -> list[int]:
    step = max(1, total // KILL_POINTS)
    return list(range(1, total + 1, step))


@pytest.mark.parametrize("exchange", [True, False], ids=["one call", "two renames"])
def test_a_kill_leaves_the_old_or_the_new(
    artifact: Artifact, newer: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    if not exchange:
        monkeypatch.setattr(durable, "exchange", lambda first, second: False)
    save_artifact(artifact, tmp_path / "probe")
    total = in_child(lambda: void(save_artifact(newer, tmp_path / "probe", overwrite=True)), kill_at=-1)
    assert total > 50
    seen = set()
    for point in points(total):
        target = tmp_path / f"at-{point}" / "church"
        save_artifact(artifact, target)
        in_child(lambda: void(save_artifact(newer, target, overwrite=True)), kill_at=point)  # noqa: B023
        try:
            seen.add(load_artifact(target).digest)
        except ArtifactNotFoundError as error:
            # Without an exchange there is a moment between two renames; the old one is whole and named.
            assert not exchange
            aside = next(target.parent.glob(".church.replaced-*"))
            assert str(aside) in str(error)  # noqa: PT017 (only some points raise)
            assert load_artifact(aside).digest == artifact.digest
    assert seen == {artifact.digest, newer.digest}


def test_a_kill_in_a_first_save_leaves_nothing_or_all(artifact: Artifact, tmp_path: Path) -> None:
    total = in_child(lambda: void(save_artifact(artifact, tmp_path / "probe")), kill_at=-1)
    whole = 0
    for point in points(total):
        target = tmp_path / f"at-{point}" / "church"
        in_child(lambda: void(save_artifact(artifact, target)), kill_at=point)  # noqa: B023
        if target.exists():
            assert load_artifact(target).digest == artifact.digest
            whole += 1
    assert whole


def void(_: object) -> None:
    return None


@pytest.mark.parametrize(
    ("room", "step"),
    [
        (os, "fsync"),
        (durable, "sync"),
        (durable, "_put_in_place"),
        (store, "render_manifest"),
        (store, "load_artifact"),
    ],
)
def test_a_full_disk_leaves_the_old_one(
    artifact: Artifact, newer: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: Any, step: str
) -> None:
    target = save_artifact(artifact, tmp_path / "church")

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(room, step, fail)
    with pytest.raises(OSError, match="No space"):
        save_artifact(newer, target, overwrite=True)
    monkeypatch.undo()
    assert load_artifact(target).digest == artifact.digest
    others = [path for path in tmp_path.iterdir() if path != target]
    if step == "_put_in_place":  # what only lacks its place is kept
        assert load_artifact(others.pop()).digest == newer.digest
    assert not others


def test_a_write_that_reads_back_differently_is_not_kept(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Path.write_bytes

    def flip(path: Path, content: bytes) -> int:
        return honest(
            path, content[:-1] + bytes([content[-1] ^ 1]) if path.suffix == ".safetensors" else content
        )

    monkeypatch.setattr(Path, "write_bytes", flip)
    with pytest.raises(ArtifactIntegrityError, match="sha256"):
        save_artifact(artifact, tmp_path / "church")
    assert list(tmp_path.iterdir()) == []


def test_tensors_changed_after_building_are_noticed(tiny_pipe: Any, tmp_path: Path) -> None:
    changed = make_artifact(tiny_pipe)
    next(iter(changed.edits["text_encoder"].tensors.values()))[0] += 1
    with pytest.raises(ArtifactIntegrityError):
        save_artifact(changed, tmp_path / "a")
    broken = make_artifact(tiny_pipe)
    next(iter(broken.edits["text_encoder"].tensors.values()))[0] = torch.nan
    with pytest.raises(ArtifactMismatchError, match="NaN"):
        save_artifact(broken, tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_not_replaced_by_accident(
    artifact: Artifact, newer: Artifact, tmp_path: Path
) -> None:
    target = save_artifact(artifact, tmp_path / "church")
    with pytest.raises(ConfigError, match="overwrite=True"):
        save_artifact(newer, target)
    assert load_artifact(save_artifact(newer, target, overwrite=True)).digest == newer.digest
    papers = tmp_path / "papers"
    papers.mkdir()
    (papers / "thesis.tex").touch()
    with pytest.raises(ConfigError, match="no artifact"):
        save_artifact(newer, papers, overwrite=True)
    assert (papers / "thesis.tex").exists()
    with pytest.raises(ConfigError, match="is a file"):
        save_artifact(newer, papers / "thesis.tex", overwrite=True)
    (tmp_path / "empty").mkdir()
    assert load_artifact(save_artifact(newer, tmp_path / "empty")).digest == newer.digest


def test_saves_are_byte_for_byte_the_same(artifact: Artifact, tmp_path: Path) -> None:
    first, second = save_artifact(artifact, tmp_path / "a"), save_artifact(artifact, tmp_path / "b")
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes()


def test_documents_are_attached_without_changing_the_digest(folder: Path) -> None:
    before = load_artifact(folder)
    attach_file(folder, "evaluation.json", b"{}", evaluation={"own name": "0/50"})
    attach_file(folder, "README.md", b"# card")
    after = load_artifact(folder)
    assert after.digest == before.digest
    assert after.manifest.evaluation == {"own name": "0/50"}
    assert set(after.manifest.attachments) == {"evaluation.json", "README.md"}
    assert json.loads((folder / MANIFEST_NAME).read_text())["evaluation"] == {"own name": "0/50"}
    for name in ("text_encoder.safetensors", MANIFEST_NAME, "../up", ".hidden", ""):
        with pytest.raises((ConfigError, ArtifactError)):
            attach_file(folder, name, b"")
    with pytest.raises(ArtifactNotFoundError, match="holds no erasure_config"):
        attach_file(folder.parent, "README.md", b"")


def test_an_evaluation_that_no_manifest_can_hold_leaves_the_artifact_as_it_was(folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    deep: Any = 0
    for _ in range(40):
        deep = [deep]
    for value in (deep, float("nan"), object()):
        with pytest.raises(ConfigError, match=r"could not be read any more: (?s:.*)expected an evaluation"):
            attach_file(folder, "evaluation.json", b"{}", evaluation={"figure": value})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_documents_that_a_method_hands_along_are_saved_as_attachments(
    artifact: Artifact, tmp_path: Path
) -> None:
    """Written and noted, but no part of the erasure: neither digest nor loading depends on them."""
    content = b"numbers"
    told = artifact.with_documents({"numbers.bin": content})
    assert told.digest == artifact.digest
    for name in ("../up", "unet.safetensors", MANIFEST_NAME):
        with pytest.raises(ConfigError, match="cannot be put beside an artifact"):
            artifact.with_documents({name: content})
    folder = save_artifact(told, tmp_path / "told")
    assert (folder / "numbers.bin").read_bytes() == content
    loaded = load_artifact(folder)
    assert loaded.manifest.attachments == {"numbers.bin": hashlib.sha256(content).hexdigest()}
    assert loaded.digest == told.digest
    assert loaded.documents == {}
    assert read_document(folder, "numbers.bin", manifest=loaded.manifest, max_bytes=10) == content
    with pytest.raises(ArtifactNotFoundError, match=r"names no document other\.bin"):
        read_document(folder, "other.bin", manifest=loaded.manifest, max_bytes=10)
    (folder / "numbers.bin").write_bytes(b"nUmbers")
    with pytest.raises(ArtifactIntegrityError, match=r"numbers\.bin is corrupted or was exchanged"):
        read_document(folder, "numbers.bin", manifest=loaded.manifest, max_bytes=10)
    (folder / "numbers.bin").unlink()
    assert load_artifact(folder).digest == told.digest
    plain = save_artifact(artifact, tmp_path / "plain")
    assert {path.name for path in plain.iterdir()} == {*artifact.manifest.files, MANIFEST_NAME}
