"""Erasures are loaded, scaled, checked, saved and taken off where the pipeline lies."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline

from diffusers_erasure import (
    ErasedStableDiffusionPipeline,
    ErasedStableDiffusionXLPipeline,
    ErasureState,
    RobustEncoder,
    load_erasure,
    set_erasure_scale,
    unload_erasure,
    verify_erasure,
)
from diffusers_erasure.artifacts import Artifact
from diffusers_erasure.artifacts.fingerprint import fingerprint
from diffusers_erasure.errors import ErasureStateError
from tests.device.second_device import SECOND, second_device
from tests.unit.pipelines.conftest import write_artifact

Draw = Callable[..., torch.Tensor]
PARTS = ("unet", "text_encoder")


@pytest.fixture(params=PARTS)
def artifact(
    request: pytest.FixtureRequest,
    tiny_pipeline: StableDiffusionPipeline,
    tiny_pipe_folder: Path,
    tmp_path: Path,
) -> Path:
    """An erasure of the UNet, and one of the text encoder."""
    return write_artifact(tiny_pipeline, tiny_pipe_folder, request.param, "dog", tmp_path / request.param)


@pytest.fixture
def expected(tiny_pipe: StableDiffusionPipeline, artifact: Path, draw: Draw) -> torch.Tensor:
    """What the erased pipeline draws on the CPU; the caller's pipeline is as before."""
    load_erasure(tiny_pipe, artifact)
    found = draw(tiny_pipe, "dog")
    unload_erasure(tiny_pipe)
    return found


def same(found: torch.Tensor, wanted: torch.Tensor) -> None:
    """But for rounding; the pictures have 8 bits."""
    torch.testing.assert_close(found.float().cpu(), wanted.float(), atol=2e-2, rtol=0)


def prints(pipe: Any) -> list[str]:
    return [fingerprint(getattr(pipe, part)) for part in PARTS]


@pytest.mark.parametrize("float64", [True, False])
def test_an_erasure_comes_and_goes_there(
    tiny_pipe: StableDiffusionPipeline,
    artifact: Path,
    expected: torch.Tensor,
    draw: Draw,
    tmp_path: Path,
    *,
    float64: bool,
) -> None:
    plain, before = draw(tiny_pipe, "dog"), prints(tiny_pipe)
    with second_device(float64=float64) as device:
        tiny_pipe.to(device)
        load_erasure(tiny_pipe, artifact, name="dog")
        assert [getattr(tiny_pipe, part).device for part in PARTS] == [SECOND, SECOND]
        assert verify_erasure(tiny_pipe).state is ErasureState.VERIFIED
        same(draw(tiny_pipe, "dog"), expected)
        set_erasure_scale(tiny_pipe, "dog", 0.5)
        set_erasure_scale(tiny_pipe, "dog", 1.0)
        tiny_pipe.save_pretrained(tmp_path / "saved")
        unload_erasure(tiny_pipe, "dog")
        assert prints(tiny_pipe) == before
        same(draw(tiny_pipe, "dog"), plain)
    same(draw(StableDiffusionPipeline.from_pretrained(tmp_path / "saved"), "dog"), expected)


@pytest.fixture(params=[True, False], ids=["erased first", "placed first"])
def erased(request: pytest.FixtureRequest, tiny_pipe_folder: Path, artifact: Path) -> Callable[..., Any]:
    """Our pipeline, erased before or after something is done to it."""

    def build(place: Callable[[Any], object]) -> ErasedStableDiffusionPipeline:
        pipe = ErasedStableDiffusionPipeline.from_pretrained(tiny_pipe_folder, require_erasure=False)
        load = partial(pipe.load_erasure, artifact)
        for do in (load, partial(place, pipe)) if request.param else (partial(place, pipe), load):
            do()
        return pipe

    return build


def test_our_pipeline_guards_what_it_draws_with_there(
    erased: Callable[..., Any], artifact: Path, expected: torch.Tensor, draw: Draw
) -> None:
    with second_device() as device:
        pipe = erased(lambda pipe: pipe.to(device))
        same(draw(pipe, "dog"), expected)
        same(draw(pipe.to("cpu"), "dog"), expected)
        pipe.to(device)
        edited = pipe.unet if artifact.name == "unet" else pipe.text_encoder
        with torch.no_grad():
            next(iter(edited.parameters())).add_(1)
        with pytest.raises(ErasureStateError, match="modified"):
            draw(pipe, "dog")


def test_a_pipeline_whose_parts_come_when_they_are_needed(
    erased: Callable[..., Any], expected: torch.Tensor, draw: Draw
) -> None:
    """`enable_model_cpu_offload`: each part is brought to the device for its turn."""
    with second_device() as device:
        pipe = erased(lambda pipe: pipe.enable_model_cpu_offload(device=device))
        for _ in range(2):
            same(draw(pipe, "dog"), expected)
            pipe.verify_erasure().raise_unless_verified()


def test_a_robust_encoder_is_swapped_in_there(
    tiny_pipe: StableDiffusionPipeline, tiny_pipeline: Any, tiny_pipe_folder: Path, draw: Draw, tmp_path: Path
) -> None:
    folder = write_artifact(tiny_pipeline, tiny_pipe_folder, "text_encoder", "dog", tmp_path / "encoder")
    load_erasure(tiny_pipe, folder)
    expected = draw(tiny_pipe, "dog")
    unload_erasure(tiny_pipe)
    with second_device() as device:
        tiny_pipe.to(device)
        tiny_pipe.text_encoder = RobustEncoder.from_pretrained(folder).to(device)
        same(draw(tiny_pipe, "dog"), expected)
        other = StableDiffusionImg2ImgPipeline.from_pipe(tiny_pipe)
        assert verify_erasure(other, folder).state is ErasureState.VERIFIED


def test_both_encoders_of_xl_are_edited_there(
    tiny_xl: StableDiffusionXLPipeline, tiny_xl_folder: Path, draw: Draw, tmp_path: Path
) -> None:
    folders = [
        write_artifact(tiny_xl, tiny_xl_folder, part, part.replace("_", " "), tmp_path / part)
        for part in ("unet", "text_encoder_2")
    ]
    pipe = ErasedStableDiffusionXLPipeline.from_pretrained(
        tiny_xl_folder, erasure=[str(one) for one in folders]
    )
    expected = draw(pipe, "dog")
    with second_device() as device:
        same(draw(pipe.to(device), "dog"), expected)
        pipe.verify_erasure().raise_unless_verified()


def test_the_caller_may_hold_the_artifact(
    tiny_pipe: StableDiffusionPipeline, tiny_artifact: Artifact
) -> None:
    with second_device() as device:
        load_erasure(tiny_pipe.to(device), tiny_artifact)
        assert verify_erasure(tiny_pipe, tiny_artifact).state is ErasureState.VERIFIED
