"""The pipeline that the tests stand on is itself worth standing on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

Draw = Callable[..., torch.Tensor]


def test_it_draws_the_same_picture_again(tiny_pipe: StableDiffusionPipeline, draw: Draw) -> None:
    assert torch.equal(draw(tiny_pipe, "dog"), draw(tiny_pipe, "dog"))
    assert draw(tiny_pipe, "dog").shape == (1, 3, 16, 16)


def test_the_prompt_and_the_seed_change_the_picture(tiny_pipe: StableDiffusionPipeline, draw: Draw) -> None:
    dog = draw(tiny_pipe, "dog")
    for other in (draw(tiny_pipe, "cat"), draw(tiny_pipe, ""), draw(tiny_pipe, "dog", seed=1)):
        assert (dog - other).abs().max() > 0.05


def test_a_copy_is_equal_and_shares_nothing(
    tiny_pipeline: StableDiffusionPipeline, tiny_pipe: StableDiffusionPipeline, draw: Draw
) -> None:
    before = draw(tiny_pipeline, "dog")
    assert torch.equal(draw(tiny_pipe, "dog"), before)
    with torch.no_grad():
        for parameter in tiny_pipe.unet.parameters():
            parameter.zero_()
    assert torch.equal(draw(tiny_pipeline, "dog"), before)


def test_another_seed_is_another_model_of_the_same_shapes(
    tiny_pipe: StableDiffusionPipeline, make_tiny_pipe: Callable[..., StableDiffusionPipeline]
) -> None:
    mine, theirs = tiny_pipe.unet.state_dict(), make_tiny_pipe(seed=1).unet.state_dict()
    assert {name: value.shape for name, value in mine.items()} == {n: v.shape for n, v in theirs.items()}
    assert not torch.equal(mine["conv_in.weight"], theirs["conv_in.weight"])


def test_the_saved_folder_is_the_same_pipeline(
    tiny_pipe: StableDiffusionPipeline, tiny_pipe_folder: Path, draw: Draw
) -> None:
    loaded = StableDiffusionPipeline.from_pretrained(tiny_pipe_folder, safety_checker=None)
    loaded.set_progress_bar_config(disable=True)
    assert torch.equal(draw(loaded, "dog"), draw(tiny_pipe, "dog"))


def test_words_are_several_tokens_and_the_prompt_is_not_77_long(tiny_pipe: StableDiffusionPipeline) -> None:
    tokenizer = tiny_pipe.tokenizer
    ids = tokenizer("a dog, 2 cats").input_ids
    assert tokenizer.unk_token_id not in ids[1:-1]
    assert len(tokenizer("dog").input_ids) == 2 + 3
    assert tokenizer.model_max_length != 77
