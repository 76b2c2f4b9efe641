"""A folder is claimed on every system, also where it is by no lock."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from diffusers_erasure import claiming
from diffusers_erasure.claiming import LOCK, claimed, holder


def test_the_holder_is_written_there(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text("process 123456789 on a machine with a rather long name\n" * 3)
    with claimed(tmp_path) as held:
        assert held is not None
        assert holder(tmp_path).startswith(f"process {os.getpid()} on ")
        assert len(holder(tmp_path).splitlines()) == 1


def test_windows_has_neither_locks_nor_pwrite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claiming, "fcntl", None)
    monkeypatch.delattr(os, "pwrite", raising=False)
    for _ in range(2):
        with claimed(tmp_path / "run") as held:
            assert held is not None
    assert holder(tmp_path / "run").startswith(f"process {os.getpid()} on ")
