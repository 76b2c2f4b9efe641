"""An artifact on disk, and judges that a command can load, for the commands that draw."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from diffusers_erasure.artifacts import Artifact
    from diffusers_erasure.evaluation.judges import Panel


@pytest.fixture
def saved_artifact(tiny_artifact: Artifact, tmp_path: Path) -> Path:
    """Folder of an artifact that erases "church" from the tiny pipeline (with random numbers)."""
    from diffusers_erasure.artifacts import save_artifact

    return save_artifact(tiny_artifact, tmp_path / "church-uce")


@pytest.fixture
def church_panel(monkeypatch: pytest.MonkeyPatch) -> Panel:
    """Judges that see a church in ink wherever they look; commands that load judges get them."""
    from diffusers_erasure.evaluation import asking, judges
    from tests.constant_judge import constant_panel

    panel = constant_panel()
    monkeypatch.setattr(judges, "load_panel", lambda *_, **__: panel)
    monkeypatch.setattr(asking, "load_panel", lambda *_, **__: panel)
    return panel
