"""ErasedStableDiffusionXLPipeline, on the tiny SDXL: what it loads, saves and refuses.

What it shares with its sibling for Stable Diffusion is tested there; here stands what SDXL does otherwise.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoPipelineForText2Image, DiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffusers_erasure import ErasureState, verify_erasure
from diffusers_erasure.errors import (
    ArtifactIntegrityError,
    ConfigError,
    ErasureBypassError,
    ErasureNotActiveError,
)
from diffusers_erasure.pipelines import (
    ErasedStableDiffusionPipeline,
    ErasedStableDiffusionXLPipeline,
    load_base_pipeline,
)
from diffusers_erasure.pipelines.base import on_components
from diffusers_erasure.pipelines.own_embeddings import are_own

Draw = Callable[..., Tensor]
Make = Callable[..., ErasedStableDiffusionXLPipeline]
CPU = torch.device("cpu")
EMBEDDINGS = (
    "prompt_embeds",
    "negative_prompt_embeds",
    "pooled_prompt_embeds",
    "negative_pooled_prompt_embeds",
)


def encode(pipe: Any) -> dict[str, Tensor]:
    """Arguments of a call with embeddings that the pipeline made."""
    return dict(zip(EMBEDDINGS, pipe.encode_prompt("a dog", device=CPU), strict=True))


@pytest.fixture
def saved(make_xl: Make, xl_unet_artifact: Path, xl_text_artifact: Path, tmp_path: Path) -> Path:
    """A pipeline with an erasure in the UNet and one in the second text encoder, saved."""
    make_xl(xl_unet_artifact, xl_text_artifact).save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


class TestLoading:
    """Bases, erasures, and the right class for them."""

    def test_base_and_erasure(
        self, make_xl: Make, xl_unet_artifact: Path, tiny_xl: StableDiffusionXLPipeline, draw: Draw
    ) -> None:
        pipe = make_xl(xl_unet_artifact)
        assert [erasure.name for erasure in pipe.erasures] == ["church"]
        assert pipe.verify_erasure().state is ErasureState.VERIFIED
        assert (draw(pipe, "church") - draw(tiny_xl, "church")).abs().max() > 1e-3

    def test_artifact_names_its_base(self, make_xl: Make, xl_unet_artifact: Path, draw: Draw) -> None:
        pipe = ErasedStableDiffusionXLPipeline.from_pretrained(xl_unet_artifact)
        pipe.set_progress_bar_config(disable=True)
        assert torch.equal(draw(pipe, "dog"), draw(make_xl(xl_unet_artifact), "dog"))

    def test_each_class_names_the_other_for_a_base_of_the_other_family(
        self, tiny_pipe_folder: Path, tiny_xl_folder: Path, unet_artifact: Path, xl_unet_artifact: Path
    ) -> None:
        for_sd, for_xl = ErasedStableDiffusionPipeline, ErasedStableDiffusionXLPipeline
        for source in (tiny_xl_folder, xl_unet_artifact):
            with pytest.raises(
                ConfigError, match=r"is a StableDiffusionXLPipeline; .* use ErasedStableDiffusionXL"
            ):
                for_sd.from_pretrained(source, require_erasure=False)
        for source in (tiny_pipe_folder, unet_artifact):
            with pytest.raises(
                ConfigError, match=r"is a StableDiffusionPipeline; .* use ErasedStableDiffusionP"
            ):
                for_xl.from_pretrained(source, require_erasure=False)

    def test_a_base_that_was_saved_for_another_task_opens_for_text_to_image(
        self, tiny_xl_folder: Path, tmp_path: Path
    ) -> None:
        folder = tmp_path / "inpainting"
        shutil.copytree(tiny_xl_folder, folder)
        index = json.loads((folder / "model_index.json").read_text())
        index["_class_name"] = "StableDiffusionXLInpaintPipeline"
        (folder / "model_index.json").write_text(json.dumps(index))
        assert type(load_base_pipeline(folder)) is StableDiffusionXLPipeline

    def test_base_pipeline_is_stock_and_says_nothing_of_a_filter_that_it_has_not(
        self, tiny_xl_folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(logging.getLogger("diffusers"), "propagate", True)
        with caplog.at_level(logging.WARNING):
            pipe = load_base_pipeline(tiny_xl_folder, safety_checker=None, requires_safety_checker=False)
        assert type(pipe) is StableDiffusionXLPipeline
        assert not caplog.records
        assert pipe.unet.dtype == torch.float32

    def test_auto_pipeline_keeps_class_and_erasures(
        self, make_xl: Make, xl_unet_artifact: Path, draw: Draw
    ) -> None:
        pipe = make_xl(xl_unet_artifact)
        sibling = AutoPipelineForText2Image.from_pipe(pipe)
        sibling.set_progress_bar_config(disable=True)
        assert type(sibling) is ErasedStableDiffusionXLPipeline
        assert sibling.erasures == pipe.erasures
        assert torch.equal(draw(sibling, "dog"), draw(pipe, "dog"))


class TestSaving:
    """A stock repository, erased for everyone."""

    @pytest.mark.parametrize(
        "loader", [DiffusionPipeline, AutoPipelineForText2Image, StableDiffusionXLPipeline]
    )
    def test_stock_classes_draw_the_same(
        self,
        make_xl: Make,
        xl_unet_artifact: Path,
        xl_text_artifact: Path,
        saved: Path,
        draw: Draw,
        loader: Any,
    ) -> None:
        stock = loader.from_pretrained(saved)
        stock.set_progress_bar_config(disable=True)
        assert type(stock) is StableDiffusionXLPipeline
        assert torch.equal(draw(stock, "dog"), draw(make_xl(xl_unet_artifact, xl_text_artifact), "dog"))

    def test_names_are_stock(self, saved: Path) -> None:
        index = json.loads((saved / "model_index.json").read_text())
        assert index["_class_name"] == "StableDiffusionXLPipeline"
        assert index["text_encoder"] == ["transformers", "CLIPTextModel"]
        assert index["text_encoder_2"] == ["transformers", "CLIPTextModelWithProjection"]
        assert index["force_zeros_for_empty_prompt"] is True
        assert set(index["_erasure"]["seals"]) == {"unet", "text_encoder_2"}

    def test_it_is_loaded_verified_and_guarded(self, saved: Path, draw: Draw) -> None:
        pipe = ErasedStableDiffusionXLPipeline.from_pretrained(saved)
        pipe.set_progress_bar_config(disable=True)
        assert {erasure.name for erasure in pipe.erasures} == {"church", "dog"}
        assert pipe.verify_erasure().state is ErasureState.VERIFIED
        draw(pipe, "dog")
        with torch.no_grad():
            next(pipe.text_encoder_2.parameters()).add_(0.1)
        with pytest.raises(ErasureNotActiveError, match="text_encoder_2 is modified"):
            draw(pipe, "dog")

    def test_exchanged_weights_are_noticed_when_it_is_loaded(self, saved: Path) -> None:
        path = saved / "unet" / "diffusion_pytorch_model.safetensors"
        weights = load_file(path)
        key = next(key for key in weights if "attn2.to_v" in key)
        save_file({**weights, key: weights[key] + 0.1}, path, metadata={"format": "pt"})
        with pytest.raises(ArtifactIntegrityError, match="weights of unet"):
            ErasedStableDiffusionXLPipeline.from_pretrained(saved)


class TestGuard:
    """What stops a call."""

    @pytest.mark.parametrize("part", ["unet", "text_encoder_2"])
    def test_changed_weights_stop_the_next_call(
        self, make_xl: Make, xl_unet_artifact: Path, xl_text_artifact: Path, draw: Draw, part: str
    ) -> None:
        pipe = make_xl(xl_unet_artifact, xl_text_artifact)
        draw(pipe, "dog")
        with torch.no_grad():
            next(getattr(pipe, part).parameters()).add_(0.1)
        with pytest.raises(ErasureNotActiveError, match=rf"(?s){part} .*expected .*found"):
            draw(pipe, "dog")

    @pytest.mark.parametrize("part", ["text_encoder", "text_encoder_2", "unet", "vae"])
    def test_weights_that_are_not_finite_do_not_give_a_black_picture(
        self, make_xl: Make, draw: Draw, part: str
    ) -> None:
        pipe = make_xl(require_erasure=False)
        with torch.no_grad():
            for parameter in getattr(pipe, part).parameters():
                parameter.fill_(torch.nan)
        processor = pipe.image_processor
        with pytest.raises(ErasureNotActiveError, match="not finite"):
            draw(pipe, "dog")
        assert pipe.image_processor is processor


class TestBypass:
    """Ways around an erased text encoder; the pooled states are held to the same rule."""

    def test_own_embeddings_are_taken(self, make_xl: Make, xl_text_artifact: Path, draw: Draw) -> None:
        pipe = make_xl(xl_text_artifact)
        assert torch.equal(draw(pipe, None, **encode(pipe)), draw(pipe, "a dog"))

    @pytest.mark.parametrize("argument", EMBEDDINGS)
    def test_foreign_embeddings_are_refused(
        self, make_xl: Make, xl_text_artifact: Path, draw: Draw, argument: str
    ) -> None:
        pipe = make_xl(xl_text_artifact)
        own = encode(pipe)
        own[argument] = own[argument].clone()
        with pytest.raises(ErasureBypassError, match=f"(?s)^{argument}.*allow_foreign_embeds"):
            draw(pipe, None, **own)
        draw(pipe, None, **own, allow_foreign_embeds=True)

    def test_foreign_pooled_states_do_not_become_own_by_encoding(
        self, make_xl: Make, xl_text_artifact: Path, draw: Draw
    ) -> None:
        pipe = make_xl(xl_text_artifact)
        own = encode(pipe)
        own["pooled_prompt_embeds"] = own["pooled_prompt_embeds"].clone()
        again = dict(zip(EMBEDDINGS, pipe.encode_prompt(None, device=CPU, **own), strict=True))
        with pytest.raises(ErasureBypassError, match=r"^pooled_prompt_embeds"):
            draw(pipe, None, **again)

    def test_embeddings_of_another_second_encoder_are_not_own(
        self, make_xl: Make, xl_unet_artifact: Path, tiny_xl: StableDiffusionXLPipeline
    ) -> None:
        pipe = make_xl(xl_unet_artifact)
        states = encode(pipe)["prompt_embeds"]
        assert are_own(pipe, states)
        pipe.text_encoder_2 = tiny_xl.text_encoder_2
        assert not are_own(pipe, states)

    def test_foreign_embeddings_are_free_while_the_erasure_is_in_the_unet(
        self, make_xl: Make, xl_unet_artifact: Path, draw: Draw
    ) -> None:
        pipe = make_xl(xl_unet_artifact)
        foreign = {name: value.clone() for name, value in encode(pipe).items()}
        assert torch.equal(draw(pipe, None, **foreign), draw(pipe, "a dog"))

    def test_callback_cannot_hand_in_other_pooled_states(
        self, make_xl: Make, xl_text_artifact: Path, draw: Draw
    ) -> None:
        pipe = make_xl(xl_text_artifact)
        inputs = {"callback_on_step_end_tensor_inputs": ["latents", "add_text_embeds"]}
        with pytest.raises(ErasureBypassError, match="callback handed in other add_text_embeds"):
            draw(
                pipe,
                "a dog",
                callback_on_step_end=lambda *now: {"add_text_embeds": now[3]["add_text_embeds"] + 1},
                **inputs,
            )
        draw(pipe, "a dog", callback_on_step_end=lambda *now: dict(now[3]), **inputs)

    def test_clip_skip_is_refused_where_an_encoder_is_erased(
        self, make_xl: Make, xl_text_artifact: Path, draw: Draw
    ) -> None:
        pipe = make_xl(xl_text_artifact)
        with pytest.raises(ErasureBypassError, match="earlier layer"):
            draw(pipe, "a dog", clip_skip=1)
        draw(pipe, "a dog", clip_skip=1, allow_clip_skip=True)

    def test_clip_skip_is_stock_else_and_has_bounds(
        self, make_xl: Make, xl_unet_artifact: Path, tiny_xl: StableDiffusionXLPipeline, draw: Draw
    ) -> None:
        pipe = make_xl(xl_unet_artifact)
        states = pipe.encode_prompt("a dog", device=CPU, clip_skip=1)[0]
        assert torch.equal(states, tiny_xl.encode_prompt("a dog", device=CPU, clip_skip=1)[0])
        for outside in (-1, 2, True):
            with pytest.raises(ConfigError, match="expected 0 to 1"):
                draw(pipe, "a dog", clip_skip=outside)


def test_a_pipeline_on_the_same_components_keeps_configuration_and_dtypes(
    tiny_xl: StableDiffusionXLPipeline,
) -> None:
    tiny_xl.register_to_config(force_zeros_for_empty_prompt=False)
    tiny_xl.vae.to(torch.bfloat16)
    twin = on_components(ErasedStableDiffusionXLPipeline, tiny_xl)
    assert twin.unet is tiny_xl.unet
    assert twin.config.force_zeros_for_empty_prompt is False
    assert (twin.vae.dtype, twin.unet.dtype) == (torch.bfloat16, torch.float32)


def test_a_stock_pipeline_says_the_same(
    tiny_xl: StableDiffusionXLPipeline, make_xl: Make, xl_unet_artifact: Path, draw: Draw
) -> None:
    pipe = make_xl(xl_unet_artifact)
    stock = StableDiffusionXLPipeline.from_pipe(pipe, dtype=pipe.dtype)
    stock.set_progress_bar_config(disable=True)
    assert verify_erasure(stock, xl_unet_artifact).state is ErasureState.VERIFIED
    assert torch.equal(draw(stock, "dog"), draw(pipe, "dog"))
