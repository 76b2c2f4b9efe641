"""A stock pipeline with a robust text encoder, saved by the stock method, opens as what it is: erased."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffusers_erasure.encoders import RobustEncoder
from diffusers_erasure.errors import ArtifactError, ErasureRequiredError
from diffusers_erasure.pipelines import ErasedStableDiffusionPipeline

Draw = Callable[..., Tensor]
WEIGHTS = Path("text_encoder") / "model.safetensors"


@pytest.fixture
def saved(tiny_pipe: StableDiffusionPipeline, text_artifact: Path, tmp_path: Path) -> Path:
    """The folder that `StableDiffusionPipeline.save_pretrained` makes of it."""
    tiny_pipe.text_encoder = RobustEncoder.from_pretrained(text_artifact)
    tiny_pipe.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def test_it_opens_erased_and_draws_the_same(
    tiny_pipe: StableDiffusionPipeline, saved: Path, draw: Draw
) -> None:
    pipe = ErasedStableDiffusionPipeline.from_pretrained(saved)
    pipe.set_progress_bar_config(disable=True)
    assert [erasure.name for erasure in pipe.erasures] == ["dog"]
    pipe.verify_erasure().raise_unless_verified()
    assert torch.equal(draw(pipe, "dog"), draw(tiny_pipe, "dog"))


def test_changed_weights_are_refused(saved: Path) -> None:
    tensors = load_file(saved / WEIGHTS)
    name = next(name for name in tensors if "mlp.fc1.weight" in name)
    tensors[name] = tensors[name] + 0.01
    save_file(tensors, saved / WEIGHTS)
    with pytest.raises(ArtifactError):
        ErasedStableDiffusionPipeline.from_pretrained(saved)


def test_another_encoder_in_its_place_is_refused(tiny_pipe_folder: Path, saved: Path) -> None:
    plain = StableDiffusionPipeline.from_pretrained(tiny_pipe_folder).text_encoder
    with pytest.raises(ErasureRequiredError, match="is not erased"):
        ErasedStableDiffusionPipeline.from_pretrained(saved, text_encoder=plain)
    ErasedStableDiffusionPipeline.from_pretrained(saved, text_encoder=plain, require_erasure=False)


def test_the_stock_class_opens_it_on_one_device(
    tiny_pipe: StableDiffusionPipeline, saved: Path, draw: Draw
) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(saved, device_map="cpu")
    pipe.set_progress_bar_config(disable=True)
    assert isinstance(pipe.text_encoder, RobustEncoder)
    assert torch.equal(draw(pipe, "dog"), draw(tiny_pipe, "dog"))
