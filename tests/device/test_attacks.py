"""Every attack runs where the pipeline lies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

from diffusers_erasure.attacks import AttackedPrompt, AttackTarget, attack_named, attacks
from tests.device.second_device import second_device

ITEMS = [AttackedPrompt("a dog", seed, "dog") for seed in range(2)]
SHORT: Mapping[str, Mapping[str, object]] = {
    "concept_inversion": {"pictures": 2, "steps": 2, "pictures_per_step": 2},
    "no_attack": {},
    "p4d": {"tokens": 3, "steps": 2, "judge_every": 1},
    "random_tokens": {"images": 2},
    "replay": {"tries": 2},
    "ring_a_bell": {"tokens": 3, "population": 8, "generations": 2, "pairs": 2},
    "seed_search": {"images": 2},
    "soft_prompt": {"steps": 2, "draws": 1, "checkpoints": 1, "sampling_steps": 2},
    "unlearndiffatk": {"timesteps": 2, "iterations": 2},
}


def target(pipe: StableDiffusionPipeline) -> AttackTarget:
    """Judged by how bright the pictures are, so that some show it."""

    def bright(images: torch.Tensor) -> torch.Tensor:
        assert images.device.type == "cpu"
        return images.float().mean(dim=(1, 2, 3)) > 127

    return AttackTarget.of(pipe, bright, steps=2, guidance_scale=4.0)


def test_every_attack_has_a_budget() -> None:
    assert set(SHORT) == set(attacks())


@pytest.mark.parametrize("name", SHORT)
def test_an_attack_runs_there(name: str, tiny_pipe: StableDiffusionPipeline, tmp_path: Path) -> None:
    spec = attack_named(name)
    settings = dict(SHORT[name])
    if name == "replay":
        (tmp_path / "prompts.csv").write_text("prompt\na dog that runs\n")
        settings["prompt_file"] = tmp_path / "prompts.csv"
    with second_device() as device:
        there = target(tiny_pipe.to(device))
        outcomes = spec.run(ITEMS, there, spec.config(**settings), base=there, store=tmp_path / "kept")
    assert [(one.failed, one.seed) for one in outcomes] == [(None, 0), (None, 1)]
    for one in outcomes:
        assert one.picture is None or one.picture.device.type == "cpu"
