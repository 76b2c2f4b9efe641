"""An artifact on disk, and judges that a command can load, for the commands that draw."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from torch import Tensor

    from diffusers_erasure.evaluation.judges import Panel, Verdicts


@pytest.fixture
def saved_artifact(tiny_pipe_folder: Path, tmp_path: Path) -> Path:
    """Folder of an artifact that erases "church" from the tiny pipeline (with random numbers)."""
    import torch
    from diffusers import StableDiffusionPipeline

    from diffusers_erasure.artifacts.artifact import build_artifact
    from diffusers_erasure.artifacts.edits import DeltaEdit
    from diffusers_erasure.artifacts.manifest import BaseModelRef
    from diffusers_erasure.artifacts.store import save_artifact
    from diffusers_erasure.concepts import resolve_concepts

    pipe = StableDiffusionPipeline.from_pretrained(tiny_pipe_folder, local_files_only=True)
    generator = torch.Generator().manual_seed(0)
    deltas = {
        key: torch.randn(value.shape, generator=generator)
        for key, value in pipe.unet.state_dict().items()
        if "attn2.to_v" in key
    }
    artifact = build_artifact(
        pipe,
        {"unet": DeltaEdit(deltas)},
        method="uce",
        method_version="1",
        settings={},
        concepts=resolve_concepts(["church"]),
        base=BaseModelRef(id=str(tiny_pipe_folder)),
        seed=0,
        steps=0,
        canary_prompts=["a church"],
    )
    return save_artifact(artifact, tmp_path / "church-uce")


class Constant:
    """A judge that names one label for every picture."""

    version, sha256, threshold = "test", "0" * 64, 0.5

    def __init__(self, name: str, labels: tuple[str, ...], answer: str) -> None:
        self.name, self.labels, self.answer = name, labels, answer

    def judge(self, images: Tensor) -> Verdicts:
        """Say it."""
        import torch

        from diffusers_erasure.evaluation.judges import Verdicts

        index = torch.full((len(images),), self.labels.index(self.answer))
        return Verdicts(self.labels, torch.nn.functional.one_hot(index, len(self.labels)).float(), 0.5)


@pytest.fixture
def church_panel(monkeypatch: pytest.MonkeyPatch) -> Panel:
    """Judges that see a church in ink wherever they look; commands that load judges get them."""
    from diffusers_erasure.embedded.vocabulary import CONCEPTS, STYLES
    from diffusers_erasure.evaluation import judges, runner

    panel = judges.Panel(
        Constant("concepts", (*CONCEPTS, "none"), "church"), style=Constant("styles", STYLES, "ink")
    )
    monkeypatch.setattr(judges, "load_panel", lambda *_, **__: panel)
    monkeypatch.setattr(runner, "load_panel", lambda *_, **__: panel)
    return panel
