"""The embedded pipeline as it ships: whole, small, and able to draw what it is asked for."""

from __future__ import annotations

import hashlib

import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from diffusers_erasure.embedded import (
    EMBEDDED_GUIDANCE_SCALE,
    EMBEDDED_STEPS,
    embedded_folder,
    embedded_pipeline,
)
from diffusers_erasure.embedded.judges import JUDGE_LABELS, load_judge
from diffusers_erasure.embedded.vocabulary import CONCEPTS, with_article
from diffusers_erasure.evaluation.generate import Sampling, draw

pytestmark = pytest.mark.integration
ASKED = ("church", "dog", "santa claus")
SEEDS = 8


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    return embedded_pipeline()


@pytest.fixture(scope="module")
def pictures(pipeline: StableDiffusionPipeline) -> dict[str, Tensor]:
    """Pictures `(seeds, 3, 64, 64)` in [0, 1] of each concept that is asked for."""
    sampling = Sampling(steps=EMBEDDED_STEPS, guidance_scale=EMBEDDED_GUIDANCE_SCALE)
    prompts = [f"a picture of {with_article(name)}" for name in ASKED for _ in range(SEEDS)]
    drawn = draw(pipeline, prompts, list(range(len(prompts))), sampling=sampling).whole()
    return dict(zip(ASKED, (drawn.float() / 255).split(SEEDS), strict=True))


def names(judge: str, images: Tensor) -> list[str]:
    network = load_judge(judge)  # type: ignore[arg-type]
    return [network.labels[int(index)] for index in network.probabilities(images).argmax(-1)]


def test_the_files_are_the_ones_that_were_packed() -> None:
    folder = embedded_folder()
    lines = (folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    sums = {name: digest for digest, name in (line.split("  ") for line in lines)}
    weights = {path.relative_to(folder).as_posix() for path in folder.rglob("*.safetensors")}
    assert {f"judges/{judge}.safetensors" for judge in JUDGE_LABELS} <= weights <= set(sums)
    for name, digest in sums.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest, name


def test_it_is_small_and_says_where_it_comes_from() -> None:
    files = [path for path in embedded_folder().rglob("*") if path.is_file()]
    assert 10e6 < sum(path.stat().st_size for path in files) <= 30e6
    assert {"ATTRIBUTION.md", "README.md", "SHA256SUMS", "model_index.json"} <= {path.name for path in files}


def test_it_is_a_stock_pipeline_for_77_tokens(pipeline: StableDiffusionPipeline) -> None:
    assert type(pipeline) is StableDiffusionPipeline
    tokenizer = pipeline.tokenizer
    assert tokenizer.model_max_length == 77
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    assert pipeline.text_encoder.config.max_position_embeddings == 77
    assert pipeline.unet.dtype == torch.float32
    lengths = {name: len(tokenizer.tokenize(name)) for name in CONCEPTS}
    assert min(lengths.values()) == 1
    assert sum(length > 1 for length in lengths.values()) >= 3


@pytest.mark.parametrize("name", ASKED)
def test_it_draws_what_it_is_asked_for(pictures: dict[str, Tensor], name: str) -> None:
    assert pictures[name].shape == (SEEDS, 3, 64, 64)
    seen = names("concept", pictures[name])
    assert seen.count(name) >= 0.8 * SEEDS, seen


def test_two_judges_of_different_kinds_agree(pictures: dict[str, Tensor]) -> None:
    images = torch.cat(list(pictures.values()))
    first, second = names("concept", images), names("concept-2", images)
    agreed = sum(a == b for a, b in zip(first, second, strict=True))
    assert agreed >= 0.9 * len(images), list(zip(first, second, strict=True))


@pytest.mark.parametrize("judge", ["concept", "concept-2"])
def test_the_concept_judges_see_nothing_in_noise(judge: str) -> None:
    noise = torch.rand((16, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    seen = names(judge, noise)
    assert seen.count("none") >= 12, seen
