"""Every method trains where the pipeline lies, and comes to the same weights there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from diffusers_erasure.artifacts import Artifact
from diffusers_erasure.artifacts.manifest import BaseModelRef
from diffusers_erasure.training import method, methods
from tests.conftest import copy_pipeline
from tests.device.second_device import second_device

BASE = BaseModelRef(id="tiny")
GUIDED = {"max_train_steps": 2, "learning_rate": 1e-3, "num_inference_steps": 3}
ADVERSARY = {"attack_steps": 2, "retain_batch_size": 1, "max_retain_prompts": 2, "retain_set": "objects"}
RUNS: dict[str, tuple[str, dict[str, object]]] = {
    "uce": ("uce", {}),
    "esd-x": ("esd", {"preset": "paper", **GUIDED}),
    "esd-text-encoder": ("esd", {"preset": "paper", **GUIDED, "train_method": "text_encoder_full"}),
    "advunlearn": ("advunlearn", {"preset": "object", **GUIDED, **ADVERSARY}),
    "advunlearn-unet": ("advunlearn", {"preset": "object", **GUIDED, **ADVERSARY, "train_method": "esd-x"}),
    "trce": (
        "trce",
        {
            "preset": "paper",
            **GUIDED,
            "num_templates": 2,
            "use_synonyms": False,
            "early_steps": 2,
            "trajectories_per_prompt": 1,
            "regularization_trajectories": 2,
        },
    ),
    "aegis": ("aegis", {"preset": "paper", **GUIDED}),
    "aegis-pool": ("aegis", {"preset": "paper", **GUIDED, "latents_from": "pool", "pool_trajectories": 2}),
}
WITH_FLOAT64 = {"esd-text-encoder", "advunlearn", "aegis-pool"}
"""Runs on a device as CUDA's are; the others on one as Apple's are."""


def trained(pipe: StableDiffusionPipeline, run: str, **values: object) -> Artifact:
    name, chosen = RUNS[run]
    spec = method(name)
    return spec.train(pipe, spec.config.parse({"concept": ["dog"], **chosen, **values}), base=BASE)


def change(artifact: Artifact) -> Tensor:
    """All changed numbers in a row."""
    tensors = [
        edit.tensors[name] for _, edit in sorted(artifact.edits.items()) for name in sorted(edit.tensors)
    ]
    assert {tensor.device.type for tensor in tensors} == {"cpu"}
    return torch.cat([tensor.double().flatten() for tensor in tensors])


def test_every_method_has_a_run() -> None:
    assert {name for name, _ in RUNS.values()} == set(methods())


@pytest.mark.parametrize("run", RUNS)
def test_a_method_trains_there_as_here(run: str, tiny_pipe: StableDiffusionPipeline) -> None:
    """Not bit by bit: other kernels round otherwise, and two steps of Adam make much of a small gradient."""
    other = copy_pipeline(tiny_pipe)
    here = change(trained(tiny_pipe, run))
    with second_device(float64=run in WITH_FLOAT64) as device:
        there = change(trained(other.to(device), run))
    assert there.shape == here.shape
    assert (there - here).norm() < 0.05 * here.norm()


def test_a_run_that_was_stopped_goes_on_there(tiny_pipe: StableDiffusionPipeline, tmp_path: Path) -> None:
    """Optimizer, adversary and pools are saved from there and taken up there, whatever device saved them."""
    with second_device() as device:
        pipe = copy_pipeline(tiny_pipe).to(device)
        whole = change(trained(pipe, "advunlearn", max_train_steps=3))
        first = {"max_train_steps": 2, "output_dir": str(tmp_path / "dog")}
        trained(pipe, "advunlearn", **first)
        rest = {"max_train_steps": 3, "output_dir": str(tmp_path / "dog"), "resume_from_checkpoint": "latest"}
        assert torch.equal(change(trained(pipe, "advunlearn", **rest)), whole)
