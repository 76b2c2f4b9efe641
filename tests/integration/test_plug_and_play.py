"""One erased text encoder in three pipelines of a family: it says the same in each, and each draws by it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline
from torch import Tensor

from diffusers_erasure import RobustEncoder, embedded_pipeline
from diffusers_erasure.artifacts.apply import load_erasure
from diffusers_erasure.artifacts.fingerprint import fingerprint
from diffusers_erasure.artifacts.manifest import BaseModelRef
from diffusers_erasure.artifacts.store import save_artifact
from diffusers_erasure.diffusion import DiffusionComponents
from diffusers_erasure.evaluation.runner import sibling
from diffusers_erasure.pipelines.guard import verify_all
from diffusers_erasure.training.esd import train_esd
from diffusers_erasure.training.esd_settings import ESDConfig

pytestmark = pytest.mark.integration
PROMPTS = ["a photo of a church", "a cat", ""]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text encoder that ESD trained for three steps."""
    config = ESDConfig(
        concept=("church",),
        train_method="text_encoder_full",
        max_train_steps=3,
        learning_rate=3e-4,
        num_inference_steps=3,
        pool_trajectories=1,
        latents_from="pool",
        num_templates=1,
    )
    trained = train_esd(embedded_pipeline(), config, base=BaseModelRef(id="embedded"))
    folder = tmp_path_factory.mktemp("artifact") / "church"
    save_artifact(trained, folder)
    return folder


def three_pipelines() -> dict[str, Any]:
    """The base, one whose UNet differs, and img2img."""
    base, second = embedded_pipeline(), embedded_pipeline()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in second.unet.parameters():
            noise = torch.randn(weight.shape, generator=generator)
            weight.add_(noise, alpha=0.02 * float(weight.std(unbiased=False)))
    parts = {**base.components, "scheduler": copy.deepcopy(base.scheduler)}
    third = StableDiffusionImg2ImgPipeline(**parts, requires_safety_checker=False)
    return {"base": base, "second": second, "img2img": third}


def states(pipe: Any) -> Tensor:
    """Text states of the prompts, `(prompts, tokens, width)`, as the pipeline itself makes them."""
    with torch.no_grad():
        found: Tensor = pipe.encode_prompt(PROMPTS, torch.device("cpu"), 1, False)[0]
    return found


def drawn(pipe: Any) -> Tensor:
    """One picture of a church, `(1, 3, height, width)` in [0, 1]."""
    generator = torch.Generator().manual_seed(3)
    options: dict[str, Any] = {"num_inference_steps": 5, "guidance_scale": 3.0, "output_type": "pt"}
    if isinstance(pipe, StableDiffusionImg2ImgPipeline):
        options |= {"image": torch.full((1, 3, 64, 64), 0.5), "strength": 0.8}
    pipe.set_progress_bar_config(disable=True)
    images: Tensor = pipe(PROMPTS[0], generator=generator, **options).images
    return images


def test_a_robust_encoder_is_plug_and_play(artifact: Path) -> None:
    encoder = RobustEncoder.from_pretrained(artifact)
    loaded = embedded_pipeline()
    load_erasure(loaded, artifact)
    wanted = states(loaded)  # what the trained encoder says in the pipeline that it was made for
    for name, pipe in three_pipelines().items():
        before, plain = states(pipe), drawn(pipe)
        unet = fingerprint(pipe.unet)
        swapped = sibling(pipe)
        swapped.text_encoder = encoder
        assert torch.equal(states(swapped), wanted), name
        assert not torch.allclose(wanted, before, atol=1e-3), name
        assert (drawn(swapped) - plain).abs().max() > 0.01, name
        assert str(verify_all(swapped).state) == "verified", name
        assert torch.equal(states(pipe), before), name
        assert torch.equal(drawn(pipe), plain), name
        assert fingerprint(swapped.unet) == fingerprint(pipe.unet) == unet, name
    assert DiffusionComponents.from_pipeline(swapped).text_encoder is encoder
