"""Artifacts of the tiny pipeline, in the UNet and in the text encoder, and pipelines with them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline

from diffusers_erasure.artifacts import BaseModelRef, DeltaEdit, build_artifact, save_artifact
from diffusers_erasure.concepts import Concept
from diffusers_erasure.pipelines import ErasedStableDiffusionPipeline, ErasedStableDiffusionXLPipeline
from tests.tiny_xl import build_tiny_xl

MakePipe = Callable[..., ErasedStableDiffusionPipeline]
MakeXL = Callable[..., ErasedStableDiffusionXLPipeline]
TARGETS = {
    "unet": ("attn2.to_k", "attn2.to_v"),
    "text_encoder": ("mlp.fc1.weight",),
    "text_encoder_2": ("mlp.fc1.weight",),
}


def write_artifact(pipe: DiffusionPipeline, base: Path, part: str, concept: str, folder: Path) -> Path:
    """Save an artifact with random deltas for one component of a pipeline."""
    generator = torch.Generator().manual_seed(1)
    weights = getattr(pipe, part).state_dict()
    deltas = {
        name: 0.3 * torch.randn(weight.shape, generator=generator)
        for name, weight in weights.items()
        if any(target in name for target in TARGETS[part])
    }
    artifact = build_artifact(
        pipe,
        {part: DeltaEdit(deltas)},
        method="uce",
        method_version="1",
        settings={},
        concepts=[Concept(name=concept)],
        base=BaseModelRef(id=str(base)),
        seed=0,
        steps=0,
        canary_prompts=["a church", "a dog"],
    )
    return save_artifact(artifact, folder)


@pytest.fixture(scope="session")
def unet_artifact(
    tiny_pipeline: StableDiffusionPipeline, tiny_pipe_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Artifact "church": cross-attention keys and values of the UNet."""
    folder = tmp_path_factory.mktemp("artifacts") / "church"
    return write_artifact(tiny_pipeline, tiny_pipe_folder, "unet", "church", folder)


@pytest.fixture(scope="session")
def text_artifact(
    tiny_pipeline: StableDiffusionPipeline, tiny_pipe_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Artifact "dog": a layer of the text encoder."""
    folder = tmp_path_factory.mktemp("artifacts") / "dog"
    return write_artifact(tiny_pipeline, tiny_pipe_folder, "text_encoder", "dog", folder)


@pytest.fixture(scope="session")
def xl_unet_artifact(tiny_xl_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Artifact "church" of the tiny SDXL: cross-attention keys and values of the UNet."""
    folder = tmp_path_factory.mktemp("artifacts") / "church-xl"
    return write_artifact(build_tiny_xl(), tiny_xl_folder, "unet", "church", folder)


@pytest.fixture(scope="session")
def xl_text_artifact(tiny_xl_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Artifact "dog" of the tiny SDXL: layers of the second text encoder, whose pooled state moves too."""
    folder = tmp_path_factory.mktemp("artifacts") / "dog-xl"
    return write_artifact(build_tiny_xl(), tiny_xl_folder, "text_encoder_2", "dog", folder)


def maker(cls: type[DiffusionPipeline], base: Path) -> Callable[..., DiffusionPipeline]:
    """Function that loads a base with erasures, and without a progress bar."""

    def make(*erasures: Path, **options: object) -> DiffusionPipeline:
        pipe = cls.from_pretrained(base, erasure=list(erasures), **options)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return make


@pytest.fixture
def make_erased(tiny_pipe_folder: Path) -> MakePipe:
    """Function that loads the tiny base with erasures: `make_erased(unet_artifact, ...)`."""
    return maker(ErasedStableDiffusionPipeline, tiny_pipe_folder)


@pytest.fixture
def make_xl(tiny_xl_folder: Path) -> MakeXL:
    """Function that loads the tiny SDXL with erasures: `make_xl(xl_unet_artifact, ...)`."""
    return maker(ErasedStableDiffusionXLPipeline, tiny_xl_folder)
