"""Ways in which an erasure could go out of force without a word, each refused."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoPipelineForText2Image, StableDiffusionPipeline
from torch import Tensor

from diffusers_erasure.artifacts import load_artifact, load_erasure, set_erasure_scale
from diffusers_erasure.artifacts.apply import ErasureTransferWarning
from diffusers_erasure.artifacts.fingerprint import quick_fingerprint
from diffusers_erasure.encoders import RobustEncoder
from diffusers_erasure.errors import (
    BaseModelMismatchError,
    ConfigError,
    ErasureNotActiveError,
    ErasureStateError,
)
from diffusers_erasure.pipelines import ErasedStableDiffusionPipeline, ErasureLoaderMixin
from diffusers_erasure.pipelines.guard import ErasureMissingWarning

Draw = Callable[..., Tensor]
Make = Callable[..., ErasedStableDiffusionPipeline]


class TestFusedProjections:
    """Fused layers hold a copy of the weights."""

    def test_scaling_while_fused_is_refused(self, make_erased: Make, unet_artifact: Path) -> None:
        pipe = make_erased(unet_artifact)
        pipe.set_erasure_scale("church", 0.0)
        pipe.fuse_qkv_projections()
        with pytest.raises(BaseModelMismatchError, match="unfuse_qkv_projections"):
            pipe.set_erasure_scale("church", 1.0)

    def test_unloading_while_fused_is_refused(self, make_erased: Make, unet_artifact: Path) -> None:
        pipe = make_erased(unet_artifact)
        pipe.fuse_qkv_projections()
        with pytest.raises(BaseModelMismatchError, match="fused"):
            pipe.unload_erasure("church")
        assert [erasure.name for erasure in pipe.erasures] == ["church"]


class TestPatchedForward:
    """A function goes on calling the module that it was made from."""

    @pytest.mark.parametrize("scale", [1.0, 0.5])
    def test_a_compiled_forward_is_refused(
        self, tiny_pipe: StableDiffusionPipeline, unet_artifact: Path, scale: float
    ) -> None:
        unet: Any = tiny_pipe.unet
        unet.forward = torch.compile(unet.forward, backend="eager")
        with pytest.raises(ErasureStateError, match="has a forward of its own"):
            load_erasure(tiny_pipe, unet_artifact, scale=scale)
        del unet.forward
        load_erasure(tiny_pipe, unet_artifact, scale=scale)

    def test_one_of_a_layer_is_refused(self, tiny_pipe: StableDiffusionPipeline, text_artifact: Path) -> None:
        encoder: Any = tiny_pipe.text_encoder
        layer = next(module for module in encoder.modules() if isinstance(module, torch.nn.Linear))
        inner = layer.forward
        layer.forward = lambda states: inner(2 * states)  # type: ignore[method-assign]
        with pytest.raises(ErasureStateError, match="has a forward of its own"):
            load_erasure(tiny_pipe, text_artifact)

    def test_hooks_that_are_copied_are_let_through(
        self, tiny_pipe: StableDiffusionPipeline, unet_artifact: Path
    ) -> None:
        from accelerate.hooks import ModelHook, add_hook_to_module

        add_hook_to_module(tiny_pipe.unet, ModelHook())
        load_erasure(tiny_pipe, unet_artifact)


class TestExchangedComponents:
    """What was erased is missed when it is gone."""

    def test_a_sealed_encoder_is_missed_before_the_first_call(
        self, make_erased: Make, tiny_pipeline: StableDiffusionPipeline, text_artifact: Path, draw: Draw
    ) -> None:
        sealed = RobustEncoder.from_pretrained(text_artifact, base=tiny_pipeline.text_encoder)
        pipe = make_erased(text_encoder=sealed)
        pipe.text_encoder = tiny_pipeline.text_encoder
        with pytest.raises(ErasureNotActiveError, match="put it back"):
            draw(pipe, "a dog")
        pipe.text_encoder = sealed
        draw(pipe, "a dog")

    def test_and_so_it_is_in_one_made_of_components(
        self, make_erased: Make, tiny_pipeline: StableDiffusionPipeline, unet_artifact: Path, draw: Draw
    ) -> None:
        for again in (AutoPipelineForText2Image.from_pipe, lambda p: type(p)(**p.components)):
            pipe = again(make_erased(unet_artifact))
            assert isinstance(pipe, ErasedStableDiffusionPipeline)
            pipe.unet = tiny_pipeline.unet
            with pytest.raises(ErasureNotActiveError):
                draw(pipe, "a dog")

    def test_an_erasure_that_is_taken_off_is_not_missed(
        self, make_erased: Make, unet_artifact: Path, draw: Draw
    ) -> None:
        pipe: Any = AutoPipelineForText2Image.from_pipe(make_erased(unet_artifact))
        pipe.unload_erasure()
        assert pipe.erasures == ()
        with pytest.warns(ErasureMissingWarning, match="its last erasure is gone"):
            draw(pipe, "a dog", allow_unverified=True)
        pipe.load_erasure(unet_artifact)
        draw(pipe, "a dog")


def test_a_class_with_its_bases_exchanged_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"expected class Wrong\(ErasureLoaderMixin, Stable"):

        class Wrong(StableDiffusionPipeline, ErasureLoaderMixin):  # type: ignore[misc]
            pass


def test_erasures_of_many_threads_are_all_there(
    tiny_pipe: StableDiffusionPipeline, unet_artifact: Path, text_artifact: Path, draw: Draw
) -> None:
    pipe = ErasedStableDiffusionPipeline.from_pipe(tiny_pipe)
    start, found = threading.Barrier(2), []

    def load(source: Path) -> None:
        start.wait()
        found.append(pipe.load_erasure(source))

    threads = [threading.Thread(target=load, args=(source,)) for source in (unet_artifact, text_artifact)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert sorted(found) == sorted(erasure.name for erasure in pipe.erasures)
    assert len(found) == 2
    draw(pipe, "a dog")


def test_one_artifact_of_many_threads_is_loaded_once(
    tiny_pipe: StableDiffusionPipeline, unet_artifact: Path
) -> None:
    """Without a lock each thread would find the pipeline bare, and the last would overwrite the others."""
    artifact = load_artifact(unet_artifact)
    start, refused = threading.Barrier(3), []

    def load() -> None:
        start.wait()
        try:
            load_erasure(tiny_pipe, artifact)
        except ConfigError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=load) for _ in range(3)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(refused) == 2
    assert all("is already on this pipeline" in message for message in refused)


def test_a_base_that_was_changed_in_place_is_refused(
    tiny_pipe: StableDiffusionPipeline, unet_artifact: Path
) -> None:
    pipe = ErasedStableDiffusionPipeline.from_pipe(tiny_pipe)
    pipe.load_erasure(unet_artifact)
    name = next(name for name, _ in tiny_pipe.unet.named_parameters() if "attn2.to_v" in name)
    tiny_pipe.unet.get_parameter(name).data.mul_(2)
    with pytest.raises(ErasureNotActiveError, match=r"base of unet were changed in place .*load again"):
        pipe.set_erasure_scale("church", 0.5)
    pipe.unload_erasure()
    with pytest.warns(ErasureTransferWarning, match="one of the same shapes"):
        pipe.load_erasure(unet_artifact, scale=0.5)


class TestMemoryLayouts:
    """Samples look at the weights, however they lie."""

    def test_an_edit_of_channels_last_weights_is_noticed(
        self, make_erased: Make, unet_artifact: Path, draw: Draw
    ) -> None:
        pipe = make_erased(unet_artifact)
        unet: Any = pipe.unet
        unet.to(memory_format=torch.channels_last)
        draw(pipe, "a dog")
        for parameter in unet.parameters():
            if parameter.ndim == 4 and not parameter.is_contiguous():
                parameter.data.mul_(1.5)
        with pytest.raises(ErasureNotActiveError):
            draw(pipe, "a dog")

    @pytest.mark.parametrize(
        "laid_out",
        [
            lambda: torch.randn(8, 4, 3, 3).to(memory_format=torch.channels_last),
            lambda: torch.randn(16, 32).T,
            lambda: torch.randn(16, 32)[:, ::2],
            lambda: torch.tensor(1.0),
        ],
    )
    def test_samples_are_views(self, laid_out: Callable[[], Tensor]) -> None:
        module = torch.nn.Module()
        module.weight = torch.nn.Parameter(laid_out())
        guard = quick_fingerprint(module)
        storage = module.weight.untyped_storage().data_ptr()
        assert all(view.untyped_storage().data_ptr() == storage for group in guard.views for view in group)
        assert guard.unchanged()
        module.weight.data.add_(1)
        assert not guard.unchanged()


class TestOffloadedToDisk:
    """Between calls, the weights have no values that could be compared."""

    def test_drawing_is_refused_by_name(
        self, make_erased: Make, unet_artifact: Path, draw: Draw, tmp_path: Path
    ) -> None:
        pipe = make_erased(unet_artifact)
        before = draw(pipe, "a dog")
        pipe.unet.enable_group_offload(
            onload_device=torch.device("cpu"), offload_type="leaf_level", offload_to_disk_path=str(tmp_path)
        )
        with pytest.raises(ErasureNotActiveError, match=r"unet are offloaded to disk .*allow_unverified"):
            draw(pipe, "a dog")
        with pytest.warns(ErasureMissingWarning, match="drawing unverified, as asked"):
            assert torch.equal(draw(pipe, "a dog", allow_unverified=True), before)


class TestInferenceMode:
    """Tensors that count no changes."""

    def test_everything_can_be_done_inside(
        self, make_erased: Make, unet_artifact: Path, text_artifact: Path, draw: Draw
    ) -> None:
        outside = draw(make_erased(unet_artifact, text_artifact), "a dog")
        with torch.inference_mode():
            pipe = make_erased(unet_artifact)
            pipe.load_erasure(text_artifact)
            assert torch.equal(draw(pipe, "a dog"), outside)
            pipe.to(dtype=torch.float64)
            pipe.set_erasure_scale("church", 0.5)
        pipe.set_erasure_scale("church", 1.0)
        assert pipe.verify_erasure().state.value == "verified"
        pipe.unload_erasure("church")

    def test_a_stock_pipeline_that_was_loaded_inside_can_be_erased(
        self, tiny_pipe_folder: Path, unet_artifact: Path, text_artifact: Path
    ) -> None:
        with torch.inference_mode():
            pipe: Any = StableDiffusionPipeline.from_pretrained(tiny_pipe_folder)
            load_erasure(pipe, unet_artifact)
            encoder = RobustEncoder.from_pretrained(text_artifact, base=pipe.text_encoder)
        pipe.text_encoder = encoder
        set_erasure_scale(pipe, "church", 0.5)


def test_an_erased_pipeline_can_be_pickled(make_erased: Make, unet_artifact: Path, draw: Draw) -> None:
    pipe = make_erased(unet_artifact)
    again = pickle.loads(pickle.dumps(pipe))  # noqa: S301 (our own bytes)
    assert torch.equal(draw(again, "a dog"), draw(pipe, "a dog"))
    assert again.verify_erasure().state.value == "verified"


@pytest.mark.parametrize("source", [None, 5])
def test_what_is_no_source_is_refused(tiny_pipe: StableDiffusionPipeline, source: Any) -> None:
    with pytest.raises(ConfigError, match="is no place of an artifact"):
        load_erasure(tiny_pipe, source)
