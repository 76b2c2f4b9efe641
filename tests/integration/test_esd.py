"""ESD on the embedded pipeline, where words mean something: the concept goes, its neighbours stay."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from diffusers_erasure import embedded_pipeline
from diffusers_erasure.artifacts.apply import load_erasure
from diffusers_erasure.artifacts.manifest import BaseModelRef
from diffusers_erasure.artifacts.store import save_artifact
from diffusers_erasure.embedded.judges import load_judge
from diffusers_erasure.training.esd import train_esd
from diffusers_erasure.training.esd_settings import ESDConfig

pytestmark = pytest.mark.integration
KEPT = ("castle", "cat", "guitar", "car", "apple", "house")


def names(pipe: StableDiffusionPipeline, prompts: list[str]) -> list[str]:
    """What the judge calls one picture of each prompt."""
    generators = [torch.Generator().manual_seed(40 + number) for number in range(len(prompts))]
    drawn = pipe(prompts, generator=generators, num_inference_steps=12, guidance_scale=4.0).images
    pixels: Tensor = torch.stack([torch.from_numpy(np.asarray(picture).copy()) for picture in drawn])
    judge = load_judge("concept")
    likely = judge.probabilities(pixels.permute(0, 3, 1, 2).float() / 255).argmax(dim=1)
    return [judge.labels[int(index)] for index in likely]


def test_esd_erases_a_church_and_leaves_the_rest(tmp_path: object) -> None:
    pipe = embedded_pipeline()
    pipe.set_progress_bar_config(disable=True)
    own = ["an image of a church", "an emoji of a church"] * 3
    others = [f"an image of a{'n' if name[0] == 'a' else ''} {name}" for name in KEPT]
    before = names(pipe, own + others)
    assert before[: len(own)].count("church") >= 5
    config = ESDConfig(concept=("church",))
    artifact = train_esd(pipe, config, base=BaseModelRef(id="embedded"))
    load_erasure(pipe, save_artifact(artifact, f"{tmp_path}/church"))
    after = names(pipe, own + others)
    assert after[: len(own)].count("church") <= 2
    kept = [was == now for was, now in zip(before, after, strict=True)][len(own) :]
    assert sum(kept) >= len(KEPT) - 2
