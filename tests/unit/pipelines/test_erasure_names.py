"""Erasures of one name on one pipeline: each is listed, verified, taken off and saved by itself."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

from diffusers_erasure.artifacts import ErasureState
from diffusers_erasure.artifacts.apply import ErasureTransferWarning
from diffusers_erasure.encoders import RobustEncoder
from diffusers_erasure.errors import ConfigError
from diffusers_erasure.pipelines import ErasedStableDiffusionPipeline

from .conftest import write_artifact

Make = Callable[..., ErasedStableDiffusionPipeline]


@pytest.fixture
def second_church(tiny_pipeline: StableDiffusionPipeline, tiny_pipe_folder: Path, tmp_path: Path) -> Path:
    """Another artifact of the concept "church", in the text encoder."""
    return write_artifact(tiny_pipeline, tiny_pipe_folder, "text_encoder", "church", tmp_path / "second")


def records(pipe: ErasedStableDiffusionPipeline) -> list[tuple[str, str, tuple[str, ...]]]:
    """Name, digest and components of every erasure."""
    return [(erasure.name, erasure.digest, erasure.components) for erasure in pipe.erasures]


def test_saving_twice_loses_no_erasure(
    make_erased: Make, unet_artifact: Path, second_church: Path, tmp_path: Path
) -> None:
    make_erased(unet_artifact).save_pretrained(tmp_path / "one")
    pipe = ErasedStableDiffusionPipeline.from_pretrained(tmp_path / "one")
    first = records(pipe)
    assert pipe.load_erasure(second_church) == "church-2"
    assert len({digest for _, digest, _ in records(pipe)}) == 2
    for folder in ("two", "three"):
        pipe.save_pretrained(tmp_path / folder)
        pipe = ErasedStableDiffusionPipeline.from_pretrained(tmp_path / folder)
        assert {parts for _, _, parts in records(pipe)} == {("unet",), ("text_encoder",)}
        assert set(first) < set(records(pipe))
        assert pipe.verify_erasure(name="church-2").state is ErasureState.VERIFIED


def test_a_name_that_the_weights_came_with_is_taken(
    make_erased: Make, unet_artifact: Path, second_church: Path, tmp_path: Path
) -> None:
    make_erased(unet_artifact).save_pretrained(tmp_path / "one")
    pipe = ErasedStableDiffusionPipeline.from_pretrained(tmp_path / "one")
    with pytest.raises(ConfigError, match="already on this pipeline"):
        pipe.load_erasure(second_church, name="church")
    with pytest.warns(ErasureTransferWarning):
        assert pipe.load_erasure(unet_artifact) == "church-2"


def test_two_sealed_ones_of_one_name_are_two(
    make_erased: Make, unet_artifact: Path, second_church: Path, tmp_path: Path
) -> None:
    make_erased(unet_artifact).save_pretrained(tmp_path / "one")
    encoder = RobustEncoder.from_pretrained(second_church)
    pipe = ErasedStableDiffusionPipeline.from_pretrained(tmp_path / "one", text_encoder=encoder)
    assert {(name, parts) for name, _, parts in records(pipe)} == {
        ("church", ("unet",)),
        ("church", ("text_encoder",)),
    }
    with torch.no_grad():
        next(encoder.parameters()).add_(0.1)
    report = pipe.verify_erasure(name="church")
    assert report.state is ErasureState.MODIFIED
    assert report.components["unet"].state is ErasureState.VERIFIED


def test_a_loaded_one_is_verified_with_the_sealed_one_of_its_name(
    make_erased: Make, unet_artifact: Path, second_church: Path
) -> None:
    pipe = make_erased(unet_artifact)
    pipe.text_encoder = RobustEncoder.from_pretrained(second_church)
    assert pipe.verify_erasure(name="church").state is ErasureState.VERIFIED
    with torch.no_grad():
        next(pipe.text_encoder.parameters()).add_(0.1)
    assert pipe.verify_erasure(name="church").state is ErasureState.MODIFIED


def test_taking_off_all_leaves_those_that_the_weights_came_with(
    make_erased: Make, unet_artifact: Path, second_church: Path, tmp_path: Path
) -> None:
    make_erased(unet_artifact).save_pretrained(tmp_path / "one")
    pipe = ErasedStableDiffusionPipeline.from_pretrained(tmp_path / "one")
    before = records(pipe)
    pipe.load_erasure(second_church)
    pipe.unload_erasure()
    assert records(pipe) == before
    assert pipe.verify_erasure().state is ErasureState.VERIFIED
