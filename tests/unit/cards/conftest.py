"""An artifact with an evaluation that was never made, and whatever a card is rendered from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.unit.cards.reports import evaluation, reactivation

if TYPE_CHECKING:
    from diffusers_erasure.artifacts import Artifact


@pytest.fixture
def folder(tiny_artifact: Artifact, tmp_path: Path) -> Path:
    """A saved artifact that edits the UNet; nothing of it was measured."""
    from diffusers_erasure.artifacts import save_artifact

    return save_artifact(tiny_artifact, tmp_path / "church-uce")


@pytest.fixture
def attach() -> Callable[[Path, str, bytes], Path]:
    """Function that attaches a document to an artifact."""
    from diffusers_erasure.artifacts.store import attach_file

    return attach_file


@pytest.fixture
def evaluated(folder: Path, tiny_artifact: Artifact, attach: Callable[..., Path]) -> Path:
    """The same artifact with an evaluation under attack, a reactivation table, and a picture."""
    digest = tiny_artifact.digest
    attach(folder, "evaluation.json", evaluation(digest).to_json().encode())
    attach(folder, "reactivation.json", reactivation(digest).to_json().encode())
    attach(folder, "grid.png", b"\x89PNG not looked at")
    return folder
