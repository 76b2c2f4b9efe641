"""Drawing: a picture depends on its seed alone, a run resumes, and the pipeline is left as it was."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline

from diffusers_erasure.errors import ErasureNotActiveError, EvaluationError
from diffusers_erasure.evaluation.generate import NOT_FINITE, Artist, Sampling, draw, pipeline_identity
from diffusers_erasure.evaluation.picture_cache import PictureCache

SAMPLING = Sampling(steps=2, guidance_scale=4.0)
PROMPTS = ["dog", "cat", "a church", "", "dog"]
SEEDS = [900_000_000, 5, 5, 7, 8]


class Calls:
    """A pipeline that counts its calls and pictures."""

    def __init__(self, pipe: Any, *, stop_after: int | None = None) -> None:
        self.pipe, self.batches, self.stop_after = pipe, [], stop_after

    def __getattr__(self, name: str) -> Any:
        return getattr(self.pipe, name)

    def __call__(self, **arguments: Any) -> Any:
        if self.stop_after is not None and len(self.batches) >= self.stop_after:
            raise KeyboardInterrupt
        self.batches.append(len(arguments["prompt"]))
        return self.pipe(**arguments)


class Broken(Calls):
    """A pipeline that cannot draw some of what it is asked for."""

    def __init__(self, pipe: Any, error: Exception | None = None) -> None:
        super().__init__(pipe)
        self.error = error

    def __call__(self, **arguments: Any) -> Any:
        images = super().__call__(**arguments).images
        for index, prompt in enumerate(arguments["prompt"]):
            if prompt == "cat" and self.error:
                raise self.error
            if prompt == "cat":
                images[index, 0, 0, 0] = float("nan")
        return SimpleNamespace(images=images)


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_a_picture_does_not_depend_on_its_batch(
    tiny_pipeline: StableDiffusionPipeline, batch_size: int
) -> None:
    together = draw(tiny_pipeline, PROMPTS, SEEDS, sampling=SAMPLING, batch_size=5).images.int()
    apart = draw(tiny_pipeline, PROMPTS, SEEDS, sampling=SAMPLING, batch_size=batch_size).images.int()
    assert (together - apart).abs().max() <= 1
    backwards = draw(tiny_pipeline, PROMPTS[::-1], SEEDS[::-1], sampling=SAMPLING).images.int()
    assert (together - backwards.flip(0)).abs().max() <= 1


def test_seed_and_prompt_matter(tiny_pipeline: StableDiffusionPipeline) -> None:
    images = draw(tiny_pipeline, PROMPTS, SEEDS, sampling=SAMPLING).images
    assert images.dtype == torch.uint8
    assert images.shape == (5, 3, 16, 16)
    assert not torch.equal(images[0], images[4])
    assert not torch.equal(images[1], images[2])


def test_it_draws_what_the_pipeline_draws(tiny_pipeline: StableDiffusionPipeline) -> None:
    generator = torch.Generator().manual_seed(5)
    expected = tiny_pipeline(
        "cat", generator=generator, num_inference_steps=2, guidance_scale=4.0, output_type="pt"
    ).images
    drawn = draw(tiny_pipeline, ["cat"], [5], sampling=SAMPLING).images
    assert torch.equal(drawn, (expected * 255).round().to(torch.uint8))


def test_an_interrupted_run_goes_on_where_it_stopped(
    tiny_pipeline: StableDiffusionPipeline, tmp_path: Path
) -> None:
    cache = PictureCache(tmp_path / "pictures", {"weights": "a"})
    first = Calls(tiny_pipeline, stop_after=1)
    with pytest.raises(KeyboardInterrupt):
        draw(first, PROMPTS, SEEDS, sampling=SAMPLING, batch_size=2, cache=cache)
    second = Calls(tiny_pipeline)
    told: list[tuple[int, int]] = []
    resumed = draw(
        second,
        PROMPTS,
        SEEDS,
        sampling=SAMPLING,
        batch_size=2,
        cache=cache,
        progress=lambda done, total: told.append((done, total)),
    )
    assert (first.batches, second.batches) == ([2], [2, 1])
    assert told == [(2, 5), (4, 5), (5, 5)]
    whole = draw(tiny_pipeline, PROMPTS, SEEDS, sampling=SAMPLING, batch_size=2)
    assert torch.equal(resumed.images, whole.images)
    third = Calls(tiny_pipeline)
    assert torch.equal(draw(third, PROMPTS, SEEDS, sampling=SAMPLING, cache=cache).images, whole.images)
    assert third.batches == []


def test_a_picture_that_is_not_finite_is_failed_and_not_kept(
    tiny_pipeline: StableDiffusionPipeline, tmp_path: Path
) -> None:
    cache = PictureCache(tmp_path, {})
    drawn = draw(Broken(tiny_pipeline), PROMPTS, SEEDS, sampling=SAMPLING, cache=cache)
    assert drawn.faults == ("", NOT_FINITE, "", "", "")
    assert not drawn.images[1].any()
    assert cache.read("cat", 5) is None
    assert cache.read("dog", 8) is not None
    with pytest.raises(EvaluationError, match=r"1 of 5 pictures could not be drawn \(not finite\)"):
        drawn.whole()


def test_a_batch_that_cannot_be_computed_fails_alone(tiny_pipeline: StableDiffusionPipeline) -> None:
    broken = Broken(tiny_pipeline, RuntimeError("out of memory"))
    drawn = draw(broken, PROMPTS, SEEDS, sampling=SAMPLING, batch_size=2)
    assert drawn.faults == ("out of memory", "out of memory", "", "", "")
    assert drawn.images.shape == (5, 3, 16, 16)


def test_an_erasure_that_is_not_active_stops_the_run(tiny_pipeline: StableDiffusionPipeline) -> None:
    with pytest.raises(ErasureNotActiveError):
        draw(Broken(tiny_pipeline, ErasureNotActiveError("gone")), PROMPTS, SEEDS, sampling=SAMPLING)


def test_the_pipeline_is_left_as_it_was(tiny_pipe: StableDiffusionPipeline) -> None:
    """This stand-in of a safety checker cannot look at pictures: drawing fails unless it is taken out."""
    checker = torch.nn.Linear(1, 1)
    tiny_pipe.register_modules(safety_checker=checker)
    tiny_pipe.set_progress_bar_config(disable=True, desc="mine")

    def interrupt(done: int, total: int) -> None:
        if done:
            assert tiny_pipe.safety_checker is None
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw(tiny_pipe, ["dog"], [1], sampling=SAMPLING, progress=interrupt)
    assert tiny_pipe.safety_checker is checker
    assert tiny_pipe._progress_bar_config == {"disable": True, "desc": "mine"}


@pytest.mark.parametrize(("seeds", "batch_size"), [([1, 2], 1), ([1], 0)])
def test_what_does_not_fit_is_refused(
    tiny_pipeline: StableDiffusionPipeline, seeds: list[int], batch_size: int
) -> None:
    with pytest.raises(EvaluationError, match="expected one seed per prompt"):
        draw(tiny_pipeline, ["dog"], seeds, sampling=SAMPLING, batch_size=batch_size)


def test_the_identity_of_a_pipeline_notices_weights_and_settings(tiny_pipe: StableDiffusionPipeline) -> None:
    identity = pipeline_identity(tiny_pipe, SAMPLING)
    assert pipeline_identity(tiny_pipe, SAMPLING) == identity
    assert pipeline_identity(tiny_pipe, Sampling(3, 4.0)) != identity
    with torch.no_grad():
        tiny_pipe.vae.decoder.conv_out.weight[0, 0, 0, 0] += 1
    assert pipeline_identity(tiny_pipe, SAMPLING) != identity


def test_an_artist_keeps_pictures_apart_by_weights(
    tiny_pipe: StableDiffusionPipeline, tmp_path: Path
) -> None:
    before = Artist(tiny_pipe, SAMPLING, folder=tmp_path).draw(["dog"], [1])
    with torch.no_grad():
        tiny_pipe.vae.decoder.conv_out.weight.mul_(-1)
    after = Artist(tiny_pipe, SAMPLING, folder=tmp_path).draw(["dog"], [1])
    assert not torch.equal(before.images, after.images)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_kept_picture_that_is_damaged_is_drawn_again(
    tiny_pipeline: StableDiffusionPipeline, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = PictureCache(tmp_path, {})
    drawn = draw(tiny_pipeline, ["dog"], [1], sampling=SAMPLING, cache=cache)
    cache.path("dog", 1).write_bytes(cache.path("dog", 1).read_bytes()[:60])
    again = draw(tiny_pipeline, ["dog"], [1], sampling=SAMPLING, cache=cache)
    assert torch.equal(drawn.images, again.images)
    assert "drawn again" in caplog.text
    assert torch.equal(cache.read("dog", 1), drawn.images[0])


def test_what_moves_while_it_draws_stays_trainable(tiny_pipe: StableDiffusionPipeline) -> None:
    """As `enable_model_cpu_offload` moves a part just before it is used."""

    def move(unet: torch.nn.Module, *_: object) -> None:
        unet.double().float()

    with tiny_pipe.unet.register_forward_pre_hook(move):
        draw(tiny_pipe, ["dog"], [1], sampling=SAMPLING)
    loss = tiny_pipe.unet(
        torch.randn(1, 4, 8, 8), 1, torch.randn(1, 7, tiny_pipe.unet.config.cross_attention_dim)
    )
    loss.sample.square().mean().backward()
    assert all(parameter.grad is not None for parameter in tiny_pipe.unet.parameters())
