"""What the tests of several methods share."""

from __future__ import annotations

from pathlib import Path

import pytest

from .trce_runs import KEPT


@pytest.fixture
def kept_file(tmp_path: Path) -> str:
    """A retain set of few, short prompts."""
    path = tmp_path / "kept.txt"
    path.write_text("\n".join(KEPT[1:]), encoding="utf-8")
    return str(path)
