"""ErasedStableDiffusionPipeline: what it loads, when it draws, what it refuses."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoPipelineForText2Image, StableDiffusionImg2ImgPipeline, StableDiffusionPipeline
from torch import Tensor

from diffusers_erasure import ErasureState, verify_erasure
from diffusers_erasure.encoders import RobustEncoder
from diffusers_erasure.errors import (
    ArtifactFormatError,
    ArtifactNotFoundError,
    ConfigError,
    ErasureNotActiveError,
    ErasureRequiredError,
)
from diffusers_erasure.pipelines import (
    ErasedStableDiffusionPipeline,
    ErasedStableDiffusionXLPipeline,
    ErasureMissingWarning,
    load_base_pipeline,
)

from .conftest import write_artifact

Draw = Callable[..., Tensor]
Make = Callable[..., ErasedStableDiffusionPipeline]
CPU = torch.device("cpu")


class TestLoading:
    """What `from_pretrained` takes."""

    def test_base_and_erasure(
        self, make_erased: Make, unet_artifact: Path, tiny_pipe: StableDiffusionPipeline, draw: Draw
    ) -> None:
        pipe = make_erased(unet_artifact)
        assert [erasure.name for erasure in pipe.erasures] == ["church"]
        assert not torch.equal(draw(pipe, "church"), draw(tiny_pipe, "church"))
        pipe.verify_erasure().raise_unless_verified()

    def test_artifact_names_its_base(self, make_erased: Make, unet_artifact: Path, draw: Draw) -> None:
        pipe = ErasedStableDiffusionPipeline.from_pretrained(unet_artifact)
        pipe.set_progress_bar_config(disable=True)
        assert torch.equal(draw(pipe, "dog"), draw(make_erased(unet_artifact), "dog"))

    def test_an_artifact_of_a_local_base_asks_for_the_folder_and_not_the_hub(
        self,
        tiny_pipeline: StableDiffusionPipeline,
        tiny_pipe_folder: Path,
        tmp_path: Path,
    ) -> None:
        folder = write_artifact(tiny_pipeline, Path("mine"), "unet", "church", tmp_path / "artifact")
        with pytest.raises(ArtifactNotFoundError, match=r"'mine'.*first argument.*erasure="):
            ErasedStableDiffusionPipeline.from_pretrained(folder)
        pipe = ErasedStableDiffusionPipeline.from_pretrained(tiny_pipe_folder, erasure=folder)
        assert [erasure.name for erasure in pipe.erasures] == ["church"]

    def test_an_artifact_whose_base_was_saved_erased_is_refused(
        self, make_erased: Make, tiny_pipeline: StableDiffusionPipeline, unet_artifact: Path, tmp_path: Path
    ) -> None:
        make_erased(unet_artifact).save_pretrained(tmp_path / "saved")
        folder = write_artifact(tiny_pipeline, tmp_path / "saved", "unet", "dog", tmp_path / "artifact")
        with pytest.raises(ArtifactFormatError, match="names a base that was saved erased itself"):
            ErasedStableDiffusionPipeline.from_pretrained(folder)

    def test_several_erasures_stack(
        self, make_erased: Make, unet_artifact: Path, text_artifact: Path
    ) -> None:
        pipe = make_erased(unet_artifact, text_artifact)
        assert {erasure.name for erasure in pipe.erasures} == {"church", "dog"}
        assert pipe.verify_erasure(name="dog").state is ErasureState.VERIFIED

    def test_no_erasure_is_an_error_that_says_how_to_give_one(self, tiny_pipe_folder: Path) -> None:
        with pytest.raises(ErasureRequiredError, match="erasure='folder or Hub id"):
            ErasedStableDiffusionPipeline.from_pretrained(tiny_pipe_folder)

    def test_require_erasure_false_draws_silently(
        self, tiny_pipe_folder: Path, tiny_pipe: StableDiffusionPipeline, draw: Draw
    ) -> None:
        pipe = ErasedStableDiffusionPipeline.from_pretrained(tiny_pipe_folder, require_erasure=False)
        pipe.set_progress_bar_config(disable=True)
        assert torch.equal(draw(pipe, "dog"), draw(tiny_pipe, "dog"))

    def test_require_erasure_false_draws_again_after_an_erasure_was_taken_off(
        self, make_erased: Make, unet_artifact: Path, tiny_pipe: StableDiffusionPipeline, draw: Draw
    ) -> None:
        pipe = make_erased(require_erasure=False)
        pipe.load_erasure(unet_artifact)
        draw(pipe, "dog")
        pipe.unload_erasure()
        assert torch.equal(draw(pipe, "dog"), draw(tiny_pipe, "dog"))

    @pytest.mark.parametrize("name", ["nothing here", "a/b/c", "./missing"])
    def test_places_that_do_not_exist_are_named(self, name: str) -> None:
        for load in (ErasedStableDiffusionPipeline.from_pretrained, load_base_pipeline):
            with pytest.raises(ArtifactNotFoundError, match="check the spelling"):
                load(name)

    def test_incomplete_base_is_our_error(self, tmp_path: Path) -> None:
        (tmp_path / "model_index.json").write_text(
            '{"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}'
        )
        with pytest.raises(ArtifactNotFoundError, match="could not be loaded"):
            load_base_pipeline(tmp_path)

    def test_base_pipeline_is_stock(self, tiny_pipe_folder: Path) -> None:
        assert type(load_base_pipeline(tiny_pipe_folder)) is StableDiffusionPipeline

    def test_robust_encoder_counts_as_the_erasure(
        self, tiny_pipe_folder: Path, text_artifact: Path, make_erased: Make, draw: Draw
    ) -> None:
        encoder = RobustEncoder.from_pretrained(text_artifact)
        pipe = ErasedStableDiffusionPipeline.from_pretrained(tiny_pipe_folder, text_encoder=encoder)
        pipe.set_progress_bar_config(disable=True)
        assert [erasure.concepts for erasure in pipe.erasures] == [("dog",)]
        assert torch.equal(draw(pipe, "dog"), draw(make_erased(text_artifact), "dog"))
        assert verify_erasure(pipe, text_artifact).state is ErasureState.VERIFIED


class TestVerbs:
    """Taking off and scaling."""

    def test_unload_restores_the_base_and_then_refuses(
        self, make_erased: Make, unet_artifact: Path, tiny_pipe: StableDiffusionPipeline, draw: Draw
    ) -> None:
        pipe = make_erased(unet_artifact)
        pipe.unload_erasure("church")
        assert pipe.erasures == ()
        base = tiny_pipe.unet.state_dict()
        assert all(torch.equal(value, base[key]) for key, value in pipe.unet.state_dict().items())
        with pytest.raises(ErasureNotActiveError, match="load_erasure"):
            draw(pipe, "dog")
        with pytest.warns(ErasureMissingWarning, match="as asked"):
            drawn = draw(pipe, "dog", allow_unverified=True)
        assert torch.equal(drawn, draw(tiny_pipe, "dog"))

    def test_scale(self, make_erased: Make, unet_artifact: Path, draw: Draw) -> None:
        pipe = make_erased(unet_artifact)
        full = draw(pipe, "dog")
        pipe.set_erasure_scale("church", 0.5)
        assert pipe.erasures[0].scale == 0.5
        assert not torch.equal(draw(pipe, "dog"), full)
        pipe.set_erasure_scale("church", 1.0)
        assert torch.equal(draw(pipe, "dog"), full)

    def test_hand_made_pipeline_warns_once_and_draws(
        self, tiny_pipe: StableDiffusionPipeline, draw: Draw
    ) -> None:
        pipe = ErasedStableDiffusionPipeline(**tiny_pipe.components, requires_safety_checker=False)
        pipe.set_progress_bar_config(disable=True)
        with pytest.warns(ErasureMissingWarning, match="load_erasure"):
            draw(pipe, "dog")
        draw(pipe, "dog")


class TestGuard:
    """What stops a call."""

    @pytest.mark.parametrize("part", ["unet", "text_encoder"])
    def test_changed_weights_stop_the_next_call(
        self, make_erased: Make, unet_artifact: Path, text_artifact: Path, draw: Draw, part: str
    ) -> None:
        pipe = make_erased(unet_artifact, text_artifact)
        draw(pipe, "dog")
        with torch.no_grad():
            next(getattr(pipe, part).parameters()).add_(0.1)
        with pytest.raises(ErasureNotActiveError, match=rf"(?s){part} .*expected .*found"):
            draw(pipe, "dog")

    @pytest.mark.parametrize("part", ["unet", "text_encoder"])
    def test_exchanged_component_stops_the_next_call(
        self,
        make_erased: Make,
        unet_artifact: Path,
        text_artifact: Path,
        tiny_pipe: StableDiffusionPipeline,
        draw: Draw,
        part: str,
    ) -> None:
        pipe = make_erased(unet_artifact, text_artifact)
        setattr(pipe, part, getattr(tiny_pipe, part))
        with pytest.raises(ErasureNotActiveError, match=part):
            draw(pipe, "dog")

    def test_exchanged_robust_encoder_stops_the_next_call(
        self, tiny_pipe_folder: Path, tiny_pipe: StableDiffusionPipeline, text_artifact: Path, draw: Draw
    ) -> None:
        encoder = RobustEncoder.from_pretrained(text_artifact)
        pipe = ErasedStableDiffusionPipeline.from_pretrained(tiny_pipe_folder, text_encoder=encoder)
        pipe.set_progress_bar_config(disable=True)
        draw(pipe, "dog")
        pipe.text_encoder = tiny_pipe.text_encoder
        with pytest.raises(ErasureNotActiveError, match="exchanged"):
            draw(pipe, "dog")
        with torch.no_grad():
            next(encoder.parameters()).add_(0.1)
        pipe.text_encoder = encoder
        with pytest.raises(ErasureNotActiveError, match="modified"):
            draw(pipe, "dog")

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_casting_keeps_it_verified(
        self, make_erased: Make, unet_artifact: Path, text_artifact: Path, dtype: torch.dtype
    ) -> None:
        pipe = make_erased(unet_artifact, text_artifact)
        pipe.to(dtype)
        assert pipe.verify_erasure().state is ErasureState.VERIFIED

    def test_weights_that_are_not_finite_do_not_give_a_black_picture(
        self, tiny_pipe_folder: Path, draw: Draw
    ) -> None:
        for part in ("text_encoder", "unet", "vae"):
            pipe = ErasedStableDiffusionPipeline.from_pretrained(tiny_pipe_folder, require_erasure=False)
            pipe.set_progress_bar_config(disable=True)
            with torch.no_grad():
                for parameter in getattr(pipe, part).parameters():
                    parameter.fill_(torch.nan)
            with pytest.raises(ErasureNotActiveError, match="not finite"):
                draw(pipe, "dog")

    def test_latents_that_are_not_finite_are_refused_where_no_picture_is_decoded(
        self, tiny_pipe_folder: Path
    ) -> None:
        pipe = ErasedStableDiffusionPipeline.from_pretrained(tiny_pipe_folder, require_erasure=False)
        pipe.set_progress_bar_config(disable=True)
        with torch.no_grad():
            pipe.unet.conv_out.bias.fill_(torch.nan)
        with pytest.raises(ErasureNotActiveError, match="the latents of the last step"):
            pipe("dog", num_inference_steps=2, output_type="latent")


class TestSiblings:
    """Pipelines that share components."""

    def test_auto_pipeline_keeps_class_and_erasures(
        self, make_erased: Make, unet_artifact: Path, draw: Draw
    ) -> None:
        pipe = make_erased(unet_artifact)
        sibling = AutoPipelineForText2Image.from_pipe(pipe)
        sibling.set_progress_bar_config(disable=True)
        assert type(sibling) is ErasedStableDiffusionPipeline
        assert sibling.erasures == pipe.erasures
        assert torch.equal(draw(sibling, "dog"), draw(pipe, "dog"))

    def test_stock_img2img_keeps_the_erasure(self, make_erased: Make, unet_artifact: Path) -> None:
        pipe = make_erased(unet_artifact)
        sibling = StableDiffusionImg2ImgPipeline.from_pipe(pipe, dtype=pipe.dtype)
        assert verify_erasure(sibling, unet_artifact).state is ErasureState.VERIFIED

    def test_own_from_pipe_keeps_dtype_and_permissions(self, make_erased: Make, unet_artifact: Path) -> None:
        pipe = make_erased(unet_artifact).to(torch.bfloat16)
        sibling = ErasedStableDiffusionPipeline.from_pipe(pipe)
        assert sibling.dtype == pipe.dtype == torch.bfloat16
        assert sibling.erasures == pipe.erasures
        assert sibling.unet is pipe.unet

    def test_own_from_pipe_leaves_mixed_dtypes(self, make_erased: Make, unet_artifact: Path) -> None:
        pipe = make_erased(unet_artifact)
        pipe.unet.to(torch.bfloat16)
        weights = {name: value.clone() for name, value in pipe.vae.state_dict().items()}
        sibling = ErasedStableDiffusionPipeline.from_pipe(pipe)
        for one in (pipe, sibling):
            assert (one.unet.dtype, one.vae.dtype) == (torch.bfloat16, torch.float32)
        assert all(torch.equal(value, weights[name]) for name, value in pipe.vae.state_dict().items())
        assert ErasedStableDiffusionPipeline.from_pipe(pipe, dtype=torch.float32).unet.dtype == torch.float32

    def test_own_from_pipe_takes_other_components_and_nothing_unknown(
        self, make_erased: Make, unet_artifact: Path, tiny_pipe: StableDiffusionPipeline
    ) -> None:
        pipe = make_erased(unet_artifact)
        sibling = ErasedStableDiffusionPipeline.from_pipe(pipe, vae=tiny_pipe.vae)
        assert sibling.vae is tiny_pipe.vae
        assert sibling.unet is pipe.unet
        with pytest.raises(ConfigError, match="takes no uvae"):
            ErasedStableDiffusionPipeline.from_pipe(pipe, uvae=tiny_pipe.vae)
        with pytest.raises(ConfigError, match="needs a text_encoder_2"):
            ErasedStableDiffusionXLPipeline.from_pipe(pipe)

    def test_sibling_stays_erased_when_one_unloads(
        self, make_erased: Make, unet_artifact: Path, draw: Draw
    ) -> None:
        pipe = make_erased(unet_artifact)
        sibling = ErasedStableDiffusionPipeline.from_pipe(pipe)
        sibling.set_progress_bar_config(disable=True)
        before = draw(sibling, "dog")
        pipe.unload_erasure()
        assert torch.equal(draw(sibling, "dog"), before)

    def test_what_is_put_on_a_sibling_is_not_missed_here(
        self, make_erased: Make, unet_artifact: Path, text_artifact: Path, draw: Draw
    ) -> None:
        pipe = make_erased(unet_artifact)
        loaded, exchanged = (ErasedStableDiffusionPipeline.from_pipe(pipe) for _ in range(2))
        loaded.load_erasure(text_artifact)
        exchanged.text_encoder = RobustEncoder.from_pretrained(text_artifact)
        for sibling in (loaded, exchanged):
            assert sibling.verify_erasure().state is ErasureState.VERIFIED
            sibling.unet = sibling.unet  # which notes what it has
        draw(pipe, "dog")


class TestOffload:
    """Erasing before and after offloading."""

    @pytest.mark.parametrize("offload", ["enable_model_cpu_offload", "enable_sequential_cpu_offload"])
    @pytest.mark.parametrize("erased_first", [True, False])
    def test_offloading_before_and_after_loading(
        self,
        make_erased: Make,
        unet_artifact: Path,
        draw: Draw,
        offload: str,
        erased_first: bool,
    ) -> None:
        expected = draw(make_erased(unet_artifact), "dog")
        pipe = make_erased(require_erasure=False)
        if erased_first:
            pipe.load_erasure(unet_artifact)
        getattr(pipe, offload)(device="cpu")
        if not erased_first:
            pipe.load_erasure(unet_artifact)
        pipe.verify_erasure().raise_unless_verified()
        if (
            "sequential" in offload
        ):  # accelerate cannot run it with the CPU as execution device, stock neither
            pipe.remove_all_hooks()
        assert torch.equal(draw(pipe, "dog"), expected)

    @pytest.mark.parametrize("erased_first", [True, False])
    def test_group_offloading(
        self, make_erased: Make, unet_artifact: Path, draw: Draw, erased_first: bool
    ) -> None:
        expected = draw(make_erased(unet_artifact), "dog")
        pipe = make_erased(require_erasure=False)
        if erased_first:
            pipe.load_erasure(unet_artifact)
        options = {"onload_device": CPU, "offload_device": CPU, "offload_type": "leaf_level"}
        pipe.unet.enable_group_offload(**options)
        if not erased_first:
            pipe.load_erasure(unet_artifact)
        assert torch.equal(draw(pipe, "dog"), expected)
