"""A small artifact that edits both components, in memory and as a folder of each test's own."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from diffusers_erasure.artifacts.artifact import Artifact, build_artifact
from diffusers_erasure.artifacts.edits import DeltaEdit, Edit, RightFactorEdit
from diffusers_erasure.artifacts.manifest import BaseModelRef, SettingRecord
from diffusers_erasure.artifacts.store import save_artifact
from diffusers_erasure.concepts import Concept

CROSS = ("attn2.to_k.weight", "attn2.to_v.weight")


def noise(shape: Any, seed: int, size: float = 0.1) -> torch.Tensor:
    return size * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def text_edit(pipe: Any, seed: int = 0, size: float = 0.1) -> DeltaEdit:
    weights = pipe.text_encoder.state_dict()
    names = [name for name in weights if name.endswith("fc1.weight")]
    return DeltaEdit({name: noise(weights[name].shape, seed + i, size) for i, name in enumerate(names)})


def unet_edit(pipe: Any, seed: int = 5, dtype: torch.dtype = torch.float16) -> RightFactorEdit:
    targets = tuple(name for name in pipe.unet.state_dict() if name.endswith(CROSS))
    width = pipe.unet.config.cross_attention_dim
    return RightFactorEdit(noise((width, width), seed, 0.4).to(dtype), targets=targets)


def weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def make_artifact(pipe: Any, edits: dict[str, Edit] | None = None, *, concept: str = "church") -> Artifact:
    return build_artifact(
        pipe,
        edits or {"text_encoder": text_edit(pipe), "unet": unet_edit(pipe)},
        method="test",
        method_version="1",
        settings={"ridge": SettingRecord(value=0.5, meaning="how much stays")},
        concepts=[Concept(name=concept)],
        base=BaseModelRef(id="tiny"),
        seed=0,
        steps=0,
        canary_prompts=["a church", "a dog"],
    )


@pytest.fixture(scope="session")
def artifact(tiny_pipeline: Any) -> Artifact:
    return make_artifact(tiny_pipeline)


@pytest.fixture(scope="session")
def saved_once(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_artifact(artifact, tmp_path_factory.mktemp("saved") / "church")


@pytest.fixture
def folder(saved_once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved_once, tmp_path / "church"))
