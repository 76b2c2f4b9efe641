"""Which embeddings an erased pipeline takes for its own: those that it made, by the layer that is erased."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.callbacks import PipelineCallback
from torch import Tensor

from diffusers_erasure.errors import ErasureBypassError
from diffusers_erasure.pipelines import ErasedStableDiffusionPipeline, ErasedStableDiffusionXLPipeline
from diffusers_erasure.pipelines.own_embeddings import are_own, note_own

Draw = Callable[..., Tensor]
Make = Callable[..., ErasedStableDiffusionPipeline]
MakeXL = Callable[..., ErasedStableDiffusionXLPipeline]
CPU = torch.device("cpu")
INPUTS = {"callback_on_step_end_tensor_inputs": ["latents", "prompt_embeds"]}


def encode(pipe: Any, **options: Any) -> dict[str, Tensor]:
    """Arguments of a call with embeddings that a pipeline made of "a dog"."""
    states, negative = pipe.encode_prompt("a dog", CPU, 1, True, **options)
    return {"prompt_embeds": states, "negative_prompt_embeds": negative}


@pytest.fixture
def pipe(make_erased: Make, text_artifact: Path) -> ErasedStableDiffusionPipeline:
    """A pipeline with an erasure in the text encoder."""
    return make_erased(text_artifact)


class TestClipSkip:
    """States of an earlier layer, encoded ahead."""

    def test_they_are_not_own(self, pipe: ErasedStableDiffusionPipeline, draw: Draw) -> None:
        skipped = encode(pipe, clip_skip=1)
        assert not are_own(pipe, skipped["prompt_embeds"])
        assert are_own(pipe, skipped["negative_prompt_embeds"])
        with pytest.raises(ErasureBypassError, match="prompt_embeds"):
            draw(pipe, None, **skipped)
        draw(pipe, None, **skipped, allow_foreign_embeds=True)

    def test_they_are_not_own_for_sdxl(self, make_xl: MakeXL, xl_text_artifact: Path, draw: Draw) -> None:
        pipe = make_xl(xl_text_artifact)
        names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds")
        names = (*names, "negative_pooled_prompt_embeds")
        made = dict(zip(names, pipe.encode_prompt("a dog", clip_skip=1), strict=True))
        assert [are_own(pipe, value) for value in made.values()] == [False, True, True, True]
        with pytest.raises(ErasureBypassError, match="prompt_embeds"):
            draw(pipe, None, **made)

    def test_they_are_own_while_the_erasure_is_in_the_unet(
        self, make_erased: Make, unet_artifact: Path
    ) -> None:
        pipe = make_erased(unet_artifact)
        assert are_own(pipe, encode(pipe, clip_skip=1)["prompt_embeds"])


class TestCallback:
    """What a step callback does with the embeddings that it sees."""

    def test_it_cannot_change_them_in_place(
        self, pipe: ErasedStableDiffusionPipeline, tiny_pipe: StableDiffusionPipeline, draw: Draw
    ) -> None:
        foreign = torch.cat([*reversed(tiny_pipe.encode_prompt("a dog", CPU, 1, True))])

        def rewrite(_: Any, step: int, timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            tensors["prompt_embeds"].copy_(foreign)
            return {}

        def rewrite_data(_: Any, step: int, timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            tensors["prompt_embeds"].data.copy_(foreign)
            return {}

        for callback in (rewrite, rewrite_data):
            with pytest.raises(ErasureBypassError, match="callback changed the given prompt_embeds"):
                draw(pipe, "a dog", callback_on_step_end=callback, **INPUTS)
            draw(pipe, "a dog", callback_on_step_end=callback, **INPUTS, allow_foreign_embeds=True)

    def test_nothing_may_change_them_between_two_steps(
        self, pipe: ErasedStableDiffusionPipeline, draw: Draw
    ) -> None:
        def rewrite(_: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            named["encoder_hidden_states"].data.add_(1.0)

        pipe.unet.register_forward_pre_hook(rewrite, with_kwargs=True)
        with pytest.raises(ErasureBypassError, match="callback changed the given prompt_embeds"):
            draw(pipe, "a dog", callback_on_step_end=lambda *_: {}, **INPUTS)

    def test_one_of_diffusers_gets_the_tensors_that_it_names(
        self, pipe: ErasedStableDiffusionPipeline, draw: Draw
    ) -> None:
        seen: list[set[str]] = []

        class Look(PipelineCallback):
            tensor_inputs = ["latents", "prompt_embeds"]  # noqa: RUF012 (as diffusers' own)

            def callback_fn(self, *given: Any) -> dict[str, Tensor]:
                seen.append(set(given[-1]))
                return {}

        draw(pipe, "a dog", callback_on_step_end=Look())
        assert seen == [{"latents", "prompt_embeds"}] * 3

    @pytest.mark.parametrize("permission", ["allow_foreign_embeds", "allow_clip_skip"])
    def test_what_one_call_may_use_is_not_own_in_the_next(
        self,
        pipe: ErasedStableDiffusionPipeline,
        tiny_pipe: StableDiffusionPipeline,
        draw: Draw,
        permission: str,
    ) -> None:
        kept = []

        def keep(_: Any, step: int, timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            kept.append(tensors["prompt_embeds"])
            return tensors

        given = {permission: True, "callback_on_step_end": keep, **INPUTS}
        if permission == "allow_foreign_embeds":
            draw(pipe, None, **encode(tiny_pipe), **given)
        else:
            draw(pipe, "a dog", clip_skip=1, **given)
        negative, states = kept[0].chunk(2)
        with pytest.raises(ErasureBypassError, match="prompt_embeds"):
            draw(pipe, None, prompt_embeds=states, negative_prompt_embeds=negative)

    def test_it_may_hand_in_what_the_pipeline_made(
        self, pipe: ErasedStableDiffusionPipeline, draw: Draw
    ) -> None:
        with torch.no_grad():
            other = torch.cat([*reversed(encode(pipe).values())])
        note_own(pipe, other)

        def swap(_: Any, step: int, timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            return {"prompt_embeds": other}

        draw(pipe, "a cat", callback_on_step_end=swap, **INPUTS)


@pytest.mark.parametrize("inference", [True, False])
def test_embeddings_that_were_changed_are_not_own(
    pipe: ErasedStableDiffusionPipeline, draw: Draw, inference: bool
) -> None:
    with torch.inference_mode(inference):
        own = encode(pipe)
        draw(pipe, None, **own)
        own["prompt_embeds"].data.add_(1.0)
        with pytest.raises(ErasureBypassError, match="prompt_embeds"):
            draw(pipe, None, **own)
