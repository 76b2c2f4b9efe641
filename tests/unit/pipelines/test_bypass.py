"""What would go around an erasure in the text encoder: foreign embeddings, and skipped layers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from diffusers_erasure.errors import (
    ConfigError,
    ErasureBypassError,
)
from diffusers_erasure.pipelines import (
    ErasedStableDiffusionPipeline,
)

Draw = Callable[..., Tensor]
Make = Callable[..., ErasedStableDiffusionPipeline]
CPU = torch.device("cpu")


def encode(pipe: ErasedStableDiffusionPipeline, prompt: str = "a dog") -> dict[str, Tensor]:
    """Arguments of a call with embeddings that the pipeline made."""
    states, negative = pipe.encode_prompt(prompt, CPU, 1, True)
    assert negative is not None
    return {"prompt_embeds": states, "negative_prompt_embeds": negative}


class TestBypass:
    """Ways around an erased text encoder."""

    def test_own_embeddings_are_taken(self, make_erased: Make, text_artifact: Path, draw: Draw) -> None:
        pipe = make_erased(text_artifact)
        assert torch.equal(draw(pipe, None, **encode(pipe)), draw(pipe, "a dog"))

    def test_views_of_own_embeddings_are_taken(
        self, make_erased: Make, text_artifact: Path, draw: Draw
    ) -> None:
        pipe = make_erased(text_artifact)
        draw(pipe, None, **{name: value[:1] for name, value in encode(pipe).items()})

    @pytest.mark.parametrize("argument", ["prompt_embeds", "negative_prompt_embeds"])
    def test_foreign_embeddings_are_refused(
        self, make_erased: Make, text_artifact: Path, draw: Draw, argument: str
    ) -> None:
        pipe = make_erased(text_artifact)
        own = encode(pipe)
        own[argument] = own[argument].clone()
        with pytest.raises(ErasureBypassError, match=f"(?s){argument}.*allow_foreign_embeds"):
            draw(pipe, None, **own)
        draw(pipe, None, **own, allow_foreign_embeds=True)

    def test_embeddings_changed_in_place_are_refused(
        self, make_erased: Make, text_artifact: Path, draw: Draw
    ) -> None:
        pipe = make_erased(text_artifact)
        own = encode(pipe)
        own["prompt_embeds"].add_(1.0)
        with pytest.raises(ErasureBypassError, match="prompt_embeds"):
            draw(pipe, None, **own)

    def test_embeddings_from_before_the_erasure_are_refused(
        self, make_erased: Make, unet_artifact: Path, text_artifact: Path, draw: Draw
    ) -> None:
        pipe = make_erased(unet_artifact)
        before = encode(pipe)
        draw(pipe, None, **before)
        pipe.load_erasure(text_artifact)
        with pytest.raises(ErasureBypassError, match="prompt_embeds"):
            draw(pipe, None, **before)

    def test_foreign_embeddings_are_free_while_the_erasure_is_in_the_unet(
        self, make_erased: Make, unet_artifact: Path, draw: Draw
    ) -> None:
        pipe = make_erased(unet_artifact)
        draw(pipe, None, **{name: value.clone() for name, value in encode(pipe).items()})

    def test_callback_cannot_hand_in_foreign_embeddings(
        self, make_erased: Make, text_artifact: Path, draw: Draw
    ) -> None:
        pipe = make_erased(text_artifact)

        def swap(_: Any, step: int, timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            return {"prompt_embeds": tensors["prompt_embeds"] + 1.0}

        def shorten(_: Any, step: int, timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            return {"prompt_embeds": tensors["prompt_embeds"][:]}

        inputs = {"callback_on_step_end_tensor_inputs": ["latents", "prompt_embeds"]}
        with pytest.raises(ErasureBypassError, match="callback"):
            draw(pipe, "a dog", callback_on_step_end=swap, **inputs)
        draw(pipe, "a dog", callback_on_step_end=shorten, **inputs)
        draw(pipe, "a dog", callback_on_step_end=swap, **inputs, allow_foreign_embeds=True)

    def test_clip_skip_is_refused_where_the_encoder_is_erased(
        self, make_erased: Make, text_artifact: Path, draw: Draw
    ) -> None:
        pipe = make_erased(text_artifact)
        with pytest.raises(ErasureBypassError, match="earlier layer"):
            draw(pipe, "a dog", clip_skip=1)
        draw(pipe, "a dog", clip_skip=1, allow_clip_skip=True)

    def test_clip_skip_takes_the_layer_before(self, make_erased: Make, unet_artifact: Path) -> None:
        pipe = make_erased(unet_artifact)
        states, negative = pipe.encode_prompt("a dog", CPU, 1, True, clip_skip=1)
        full, plain = pipe.encode_prompt("a dog", CPU, 1, True)
        tokens = pipe.tokenizer("a dog", padding="max_length", return_tensors="pt").input_ids
        encoder = pipe.text_encoder
        expected = encoder.final_layer_norm(encoder(tokens, output_hidden_states=True).hidden_states[-2])
        assert torch.equal(states, expected)
        assert not torch.equal(states, full)
        assert negative is not None
        assert plain is not None
        assert torch.equal(negative, plain)
        assert torch.equal(pipe.encode_prompt("a dog", CPU, 1, True, clip_skip=0)[0], full)

    def test_the_strength_of_a_lora_is_for_one_call(self, make_erased: Make, unet_artifact: Path) -> None:
        peft = pytest.importorskip("peft")
        pipe = make_erased(unet_artifact)
        pipe.text_encoder.add_adapter(
            peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
        )
        found = [
            pipe.encode_prompt("a dog", CPU, 1, False, clip_skip=1, lora_scale=scale)[0]
            for scale in (None, 0.5, None)
        ]
        assert torch.equal(found[0], found[2])
        assert not torch.equal(found[0], found[1])

    @pytest.mark.parametrize("clip_skip", [-1, 3, 1.5, True])
    def test_clip_skip_has_bounds(
        self, make_erased: Make, unet_artifact: Path, draw: Draw, clip_skip: Any
    ) -> None:
        with pytest.raises(ConfigError, match="clip_skip"):
            draw(make_erased(unet_artifact), "a dog", clip_skip=clip_skip)
