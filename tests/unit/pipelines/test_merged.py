"""LoRAs and patches beside an erasure: loaded they add to it; merged into its weights they would undo it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from diffusers import StableDiffusionPipeline
from torch import Tensor

from diffusers_erasure import load_erasure, unload_erasure, verify_erasure
from diffusers_erasure.artifacts import ErasureState, guard_erasures
from diffusers_erasure.encoders import RobustEncoder
from diffusers_erasure.errors import ErasureNotActiveError, ErasureStateError
from diffusers_erasure.pipelines import ErasedStableDiffusionPipeline

Draw = Callable[..., Tensor]
Make = Callable[..., ErasedStableDiffusionPipeline]


@pytest.fixture
def lora(tiny_pipe_folder: Path, tmp_path: Path) -> Path:
    """A LoRA on the UNet's attention that changes what is drawn."""
    peft = pytest.importorskip("peft")
    from peft.utils import get_peft_model_state_dict

    pipe = StableDiffusionPipeline.from_pretrained(tiny_pipe_folder)
    pipe.unet.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q", "to_k"]))
    for name, weight in pipe.unet.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.5, generator=torch.Generator().manual_seed(len(name)))
    StableDiffusionPipeline.save_lora_weights(tmp_path / "lora", get_peft_model_state_dict(pipe.unet))
    return tmp_path / "lora"


def test_fusing_into_an_erased_part_is_refused_and_changes_nothing(
    make_erased: Make, unet_artifact: Path, text_artifact: Path, lora: Path, draw: Draw
) -> None:
    pipe = make_erased(unet_artifact)
    pipe.load_lora_weights(lora)
    before = draw(pipe, "dog")
    for components in ([], ["unet"], ["unet", "text_encoder"]):
        with pytest.raises(ErasureStateError, match="cannot be fused into unet, which is erased"):
            pipe.fuse_lora(components) if components else pipe.fuse_lora()
    assert torch.equal(draw(pipe, "dog"), before)
    other = make_erased(text_artifact)
    other.load_lora_weights(lora)
    other.fuse_lora(["unet"])
    other.verify_erasure().raise_unless_verified()


def test_a_base_that_was_merged_into_is_told_when_it_comes_back(
    tiny_pipe: StableDiffusionPipeline, unet_artifact: Path, lora: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A stock pipeline cannot be kept from fusing, and weights that no erasure touches are the base's own."""
    load_erasure(tiny_pipe, unet_artifact)
    unload_erasure(tiny_pipe)
    assert "are not what they were" not in caplog.text
    load_erasure(tiny_pipe, unet_artifact)
    tiny_pipe.load_lora_weights(lora)
    tiny_pipe.fuse_lora()
    assert verify_erasure(tiny_pipe).state is ErasureState.MODIFIED
    unload_erasure(tiny_pipe)
    assert "of the base of unet are not what they were" in caplog.text


def test_another_forward_is_noticed_before_the_next_picture(
    make_erased: Make, tiny_pipe: StableDiffusionPipeline, unet_artifact: Path, draw: Draw
) -> None:
    pipe = make_erased(unet_artifact)
    draw(pipe, "dog")
    own = pipe.unet.forward
    pipe.unet.forward = tiny_pipe.unet.forward
    with pytest.raises(ErasureNotActiveError):
        draw(pipe, "dog")
    pipe.unet.forward = own
    draw(pipe, "dog")


def test_hooks_that_come_and_go_with_every_picture_cost_no_full_comparison(
    make_erased: Make, unet_artifact: Path, draw: Draw
) -> None:
    """Accelerate sets a forward anew at every call when models are offloaded."""
    pipe = make_erased(unet_artifact)
    draw(pipe, "dog")
    for _ in range(2):
        add_hook_to_module(pipe.unet, ModelHook())
        assert guard_erasures(pipe).message == "nothing has changed since it was verified"
        remove_hook_from_module(pipe.unet)
        assert guard_erasures(pipe).message == "nothing has changed since it was verified"


def test_projections_that_were_fused_and_unfused_are_as_if_they_never_were(
    make_erased: Make, unet_artifact: Path, text_artifact: Path, draw: Draw
) -> None:
    pipe, plain = make_erased(unet_artifact), make_erased(unet_artifact, text_artifact)
    pipe.fuse_qkv_projections()
    pipe.unfuse_qkv_projections()
    pipe.load_erasure(text_artifact)
    assert torch.equal(draw(pipe, "dog"), draw(plain, "dog"))
    pipe.set_erasure_scale("church", 0.5)
    pipe.unload_erasure()


def test_a_robust_encoder_in_a_stock_pipeline_is_verified(
    tiny_pipe: StableDiffusionPipeline, text_artifact: Path
) -> None:
    assert verify_erasure(tiny_pipe).state is ErasureState.ABSENT
    tiny_pipe.text_encoder = RobustEncoder.from_pretrained(text_artifact)
    assert verify_erasure(tiny_pipe).state is ErasureState.VERIFIED
    with torch.no_grad():
        next(tiny_pipe.text_encoder.parameters()).add_(0.1)
    assert verify_erasure(tiny_pipe).state is ErasureState.MODIFIED
