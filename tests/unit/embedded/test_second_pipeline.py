"""The second pipeline: what it learns from, and that a run never goes on as another."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from benchmarks.second_pipeline import gather_lessons, hold_settings, plain_prompts
from diffusers_erasure.embedded.vocabulary import CONCEPTS
from diffusers_erasure.errors import TrainingError

STYLES = ("ink", "noto", "ink", "pixel")


@pytest.fixture
def work_dir(tmp_path: Path) -> Path:
    """A working folder of the recipe with one dog in each style."""
    (tmp_path / "data").mkdir()
    records = [(["dog"], style, None) for style in STYLES]
    (tmp_path / "data" / "scenes.json").write_text(json.dumps(records), encoding="utf-8")
    pictures = np.random.default_rng(0).integers(0, 256, (len(STYLES), 64, 64, 3)).astype(np.uint8)
    np.save(tmp_path / "data" / "scenes.npy", pictures)
    return tmp_path


def test_lessons_are_the_pictures_of_the_chosen_styles(
    work_dir: Path, tiny_pipe: StableDiffusionPipeline
) -> None:
    lessons = gather_lessons(tiny_pipe, work_dir, ("ink", "pixel"))
    assert [scene.style for scene in lessons.scenes] == ["ink", "ink", "pixel"]
    pixels = torch.from_numpy(np.load(work_dir / "data" / "scenes.npy")[[0, 2, 3]])
    with torch.no_grad():
        wanted = tiny_pipe.vae.encode(pixels.permute(0, 3, 1, 2).float() / 127.5 - 1).latent_dist.mode()
    assert torch.allclose(lessons.latents, wanted * tiny_pipe.vae.config.scaling_factor, atol=1e-4)


def test_a_style_without_pictures_is_refused(work_dir: Path, tiny_pipe: StableDiffusionPipeline) -> None:
    with pytest.raises(TrainingError, match="no scenes in sepia"):
        gather_lessons(tiny_pipe, work_dir, ("ink", "sepia"))


def test_a_run_goes_on_only_as_itself(tmp_path: Path) -> None:
    settings = {"styles": ["ink"], "steps": 3, "learning_rate": 3e-4}
    for _ in range(2):
        hold_settings(tmp_path / "settings.json", settings)
    with pytest.raises(TrainingError, match="'steps': 3"):
        hold_settings(tmp_path / "settings.json", {**settings, "steps": 4})


def test_plain_prompts_ask_for_every_concept_and_name_no_style() -> None:
    prompts, asked = plain_prompts(2)
    assert asked == [*CONCEPTS, *CONCEPTS]
    assert len(set(prompts)) == len(prompts)
    assert all(name in prompt for name, prompt in zip(asked, prompts, strict=True))
    assert not any("style" in prompt for prompt in prompts)
