"""Files and folders appear whole or not at all; what was there stays until then."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from diffusers_erasure import durable
from diffusers_erasure.durable import (
    exchange,
    file_sha256,
    remove_whole,
    sweep,
    whole_file,
    whole_folder,
    write_whole,
)


class StoppedError(Exception):
    """What a block raises."""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def filled(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "content").write_text(text, encoding="utf-8")
    return folder


def test_a_file_is_written_with_its_folder_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.json"
    for content in (b"old", b"new"):
        write_whole(path, content)
        assert path.read_bytes() == content
        assert file_sha256(path) == hashlib.sha256(content).hexdigest()
    assert names(path.parent) == ["b.json"]


def test_a_file_stays_when_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "kept"
    write_whole(path, b"old")
    with suppress(StoppedError), whole_file(path) as draft:
        draft.write_bytes(b"half")
        raise StoppedError
    assert path.read_bytes() == b"old"
    monkeypatch.setattr(os, "fsync", _no_space)
    with pytest.raises(OSError, match="No space"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["kept"]


def test_a_block_that_writes_no_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), whole_file(tmp_path / "nothing"):
        pass
    assert names(tmp_path) == []


@pytest.mark.parametrize("swaps", [True, False], ids=["one call", "two renames"])
def test_a_folder_takes_the_place_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swaps: bool
) -> None:
    if not swaps:
        monkeypatch.setattr(durable, "exchange", lambda first, second: False)
    target = tmp_path / "deep" / "folder"
    for text in ("old", "new"):
        with whole_folder(target) as draft:
            (draft / "inner").mkdir()
            (draft / "inner" / text).touch()
            assert names(target / "inner") == ["old"] if target.exists() else text == "old"
        assert names(target / "inner") == [text]
    assert names(target.parent) == ["folder"]


def test_a_folder_stays_when_filling_fails(tmp_path: Path) -> None:
    target = filled(tmp_path / "folder", "old")
    with suppress(StoppedError), whole_folder(target) as draft:
        (draft / "content").write_text("half", encoding="utf-8")
        raise StoppedError
    assert (target / "content").read_text(encoding="utf-8") == "old"
    assert names(tmp_path) == ["folder"]


def test_a_folder_moved_aside_is_moved_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = filled(tmp_path / "folder", "old")
    monkeypatch.setattr(durable, "exchange", lambda first, second: False)
    honest = Path.replace

    def refuse(path: Path, to: Path) -> Path:
        if f".{durable.PARTIAL}-" in path.name:
            raise OSError(13, "Permission denied")
        return honest(path, to)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(PermissionError, match="Permission") as caught, whole_folder(target) as draft:
        (draft / "content").write_text("new", encoding="utf-8")
    assert (target / "content").read_text(encoding="utf-8") == "old"
    assert names(tmp_path) == [draft.name, "folder"]
    assert (draft / "content").read_text(encoding="utf-8") == "new"
    assert f"move it from {draft}" in str(caught.value)


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """No folder is exchanged with another, nor replaced, even if it is empty."""
    monkeypatch.setattr(durable, "exchange", lambda first, second: False)
    honest = Path.replace

    def replace(path: Path, to: Path) -> Path:
        if path.is_dir() and to.is_dir():
            raise PermissionError(13, "Access is denied", str(path), None, str(to))
        return honest(path, to)

    monkeypatch.setattr(Path, "replace", replace)


@pytest.mark.usefixtures("windows")
def test_an_empty_folder_is_replaced_on_windows(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    target.mkdir()
    for text in ("first", "second"):
        with whole_folder(target) as draft:
            (draft / text).touch()
        assert names(target) == [text]
    assert names(tmp_path) == ["folder"]


def test_what_cannot_take_an_empty_folders_place_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "folder"
    target.mkdir()
    monkeypatch.setattr(Path, "replace", _no_space)
    with pytest.raises(OSError, match="No space") as caught, whole_folder(target) as draft:
        (draft / "content").write_text("new", encoding="utf-8")
    assert (draft / "content").read_text(encoding="utf-8") == "new"
    assert str(draft) in str(caught.value)
    assert names(target) == []


def test_removing_hides_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = filled(tmp_path / "folder", "old")
    remove_whole(tmp_path / "never was")
    with monkeypatch.context() as killed:
        killed.setattr(durable.shutil, "rmtree", _no_space)
        with pytest.raises(OSError, match="No space"):
            remove_whole(folder)
    (left,) = names(tmp_path)
    assert left.startswith(f".folder.{durable.REMOVED}-")
    sweep(tmp_path)
    assert names(tmp_path) == []


def test_a_sweep_takes_what_is_old_and_unfinished(tmp_path: Path) -> None:
    for name in (".a.partial-1-x", ".b.partial-1-x", ".a.replaced-1-x", "a", ".a"):
        filled(tmp_path / name, "")
    (tmp_path / ".a.partial-2-x").write_bytes(b"a file that somebody is writing")
    long_ago = time.time() - 100
    os.utime(tmp_path / ".a.partial-1-x", (long_ago, long_ago))
    sweep(tmp_path, "a", older_than=200)
    sweep(tmp_path, "c")
    sweep(tmp_path, older_than=50)
    assert names(tmp_path) == [".a", ".a.partial-2-x", ".a.replaced-1-x", ".b.partial-1-x", "a"]


def test_exchange_swaps_where_the_platform_can(tmp_path: Path) -> None:
    first, second = filled(tmp_path / "first", "1"), filled(tmp_path / "second", "2")
    swaps = exchange(first, second)
    assert swaps is sys.platform.startswith("linux")
    found = [(folder / "content").read_text(encoding="utf-8") for folder in (first, second)]
    assert found == (["2", "1"] if swaps else ["1", "2"])
    if swaps:
        with pytest.raises(FileNotFoundError):
            exchange(first, tmp_path / "third")


def _no_space(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")
