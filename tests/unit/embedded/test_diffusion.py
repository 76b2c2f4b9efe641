"""Training the UNet: from nothing as ever, from given weights, and resumed without a trace."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor

from diffusers_erasure.embedded.recipe import diffusion, loop, text
from diffusers_erasure.embedded.recipe.dataset import Scene
from diffusers_erasure.embedded.recipe.diffusion import Lessons, continue_diffusion, train_diffusion
from diffusers_erasure.embedded.recipe.loop import Schedule, World
from diffusers_erasure.embedded.recipe.tokenizer import train_tokenizer
from diffusers_erasure.errors import TrainingError
from tests.reference.diffusion_recipe import literal_training

SCHEDULE = Schedule(steps=2, learning_rate=1e-2, ema_decay=0.5)
SEED, FRESH_SEED = 7, 2
SCENES = (
    Scene(("dog",), "ink", None),
    Scene(("church",), "noto", "pink"),
    Scene(("cat", "cat"), "poster", None),
)


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The recipe's networks at a tiny size, and two steps in place of its thousands."""
    monkeypatch.setattr(diffusion, "CHANNELS", (16, 16, 16))
    monkeypatch.setattr(diffusion, "WIDTH", 16)
    monkeypatch.setattr(text, "WIDTH", 16)
    monkeypatch.setattr(diffusion, "_SCHEDULE", SCHEDULE)
    yield
    torch.set_grad_enabled(True)


@pytest.fixture
def lessons() -> Lessons:
    """Three scenes with random latents, and a text encoder with fresh weights."""
    tokenizer = train_tokenizer(SCENES * 10, (), seed=0)
    torch.manual_seed(1)
    latents = torch.randn(len(SCENES), 4, 16, 16)
    return Lessons(latents, SCENES, tokenizer, text.new_text_encoder(tokenizer).eval())


def fresh(seed: int) -> UNet2DConditionModel:
    torch.manual_seed(seed)
    return diffusion.new_unet()


def run(unet: UNet2DConditionModel, lessons: Lessons, folder: Path) -> UNet2DConditionModel:
    return continue_diffusion(unet, lessons, SCHEDULE, folder=folder, seed=SEED, world=World())


def literal(unet: UNet2DConditionModel, lessons: Lessons, seed: int) -> dict[str, torch.Tensor]:
    parts = (lessons.latents, lessons.scenes, lessons.tokenizer, lessons.text_encoder)
    unet.set_attn_processor(
        AttnProcessor()
    )  # Adam's first steps are signs: they show the rounding of another
    return literal_training(unet, *parts, rate=SCHEDULE.learning_rate, seed=seed)


def assert_near(unet: UNet2DConditionModel, wanted: dict[str, Any], start: UNet2DConditionModel) -> None:
    moved = sum(float((wanted[k] - v).abs().sum()) for k, v in start.state_dict().items())
    apart = sum(float((wanted[k] - v).abs().sum()) for k, v in unet.state_dict().items())
    assert moved > 0
    assert apart < 1e-3 * moved


def test_training_from_nothing_is_the_recipe_as_written(lessons: Lessons, tmp_path: Path) -> None:
    parts = (lessons.latents, lessons.scenes, lessons.tokenizer, lessons.text_encoder)
    trained = train_diffusion(*parts, folder=tmp_path, world=World())
    assert (tmp_path / "diffusion" / "checkpoint").is_dir()
    assert_near(trained, literal(fresh(0), lessons, FRESH_SEED), fresh(0))


def test_training_goes_on_from_the_weights_that_are_given(lessons: Lessons, tmp_path: Path) -> None:
    given, other = fresh(5), fresh(6)
    start = copy.deepcopy(given)
    trained = run(given, lessons, tmp_path / "given")
    assert trained is given
    assert not trained.training
    assert_near(trained, literal(copy.deepcopy(start), lessons, SEED), start)
    elsewhere = run(other, lessons, tmp_path / "other")
    assert not torch.equal(trained.conv_in.weight, elsewhere.conv_in.weight)


def test_text_encoder_and_latents_stay_as_they_were(lessons: Lessons, tmp_path: Path) -> None:
    before = copy.deepcopy(lessons.text_encoder.state_dict()), lessons.latents.clone()
    run(fresh(5), lessons, tmp_path)
    assert all(torch.equal(value, before[0][k]) for k, value in lessons.text_encoder.state_dict().items())
    assert all(one.grad is None for one in lessons.text_encoder.parameters())
    assert torch.equal(lessons.latents, before[1])


def test_an_interrupted_run_ends_in_the_same_weights(
    lessons: Lessons, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(fresh(5), lessons, tmp_path / "whole")
    saved = loop._Run.save

    def save_and_stop(self: Any, done: int) -> None:
        saved(self, done)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(loop._Run, "save", save_and_stop)
        patched.setattr(loop.time, "monotonic", iter(range(0, 10**6, 1000)).__next__)
        with pytest.raises(KeyboardInterrupt):
            run(fresh(5), lessons, tmp_path / "halves")
    resumed = run(fresh(9), lessons, tmp_path / "halves")  # its weights come from the checkpoint
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


@pytest.mark.parametrize("scenes", [(), SCENES[:2]])
def test_scenes_that_do_not_match_the_latents_are_refused(
    lessons: Lessons, scenes: tuple[Scene, ...]
) -> None:
    with pytest.raises(TrainingError, match=f"{len(scenes)} scenes and 3 latents"):
        Lessons(lessons.latents, scenes, lessons.tokenizer, lessons.text_encoder)
