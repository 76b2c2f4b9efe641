"""What is pushed is what a stranger can load: encoder and pipeline, byte for byte as they were saved."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from transformers import CLIPTextModel

from diffusers_erasure.artifacts.artifact import Artifact
from diffusers_erasure.encoders import RobustEncoder
from diffusers_erasure.pipelines import ErasedStableDiffusionPipeline
from tests.unit.hub.conftest import COMMIT, TakingHub

ERASURE = {"method": "advunlearn", "concepts": ["church"], "base_model": "embedded"}
REPO = "org/church"


def test_a_pushed_encoder_opens_for_everyone(
    hub: TakingHub, tiny_pipe: StableDiffusionPipeline, tmp_path: Path
) -> None:
    robust = RobustEncoder.from_encoder(tiny_pipe.text_encoder, erasure=ERASURE)
    address = robust.push_to_hub(REPO, commit_message="Take this one", private=True, token="hf_test")
    assert address.endswith(f"{REPO}/commit/{COMMIT}")
    assert hub.created[0]["visibility"] == "private"
    assert [commit["summary"] for commit in hub.commits] == ["Take this one"]
    folder = hub.checkout(REPO, tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    again = RobustEncoder.from_pretrained(folder)
    assert again.erasure is not None
    assert again.erasure.concepts == ("church",)
    stock = CLIPTextModel.from_pretrained(folder)
    expected = robust.state_dict()
    for found in (again.state_dict(), stock.state_dict()):
        assert all(torch.equal(found[key], value) for key, value in expected.items())


def test_an_encoder_goes_into_a_subfolder(
    hub: TakingHub, tiny_pipe: StableDiffusionPipeline, tmp_path: Path
) -> None:
    robust = RobustEncoder.from_encoder(tiny_pipe.text_encoder, erasure=ERASURE)
    robust.push_to_hub(REPO, subfolder="church_erased", token="hf_test")
    folder = hub.checkout(REPO, tmp_path)
    assert RobustEncoder.from_pretrained(folder, subfolder="church_erased").erasure is not None


def test_a_pushed_pipeline_is_erased_for_everyone(
    hub: TakingHub, tiny_artifact: Artifact, tiny_pipe_folder: Path, tmp_path: Path
) -> None:
    pipe = ErasedStableDiffusionPipeline.from_pretrained(tiny_pipe_folder, erasure=tiny_artifact)
    pipe.set_progress_bar_config(disable=True)
    pipe.push_to_hub(REPO, token="hf_test")
    folder = hub.checkout(REPO, tmp_path)
    erased = ErasedStableDiffusionPipeline.from_pretrained(folder)
    assert [found.concepts for found in erased.erasures] == [("church",)]
    stock = StableDiffusionPipeline.from_pretrained(folder)
    expected = pipe.unet.state_dict()
    for found in (erased.unet.state_dict(), stock.unet.state_dict()):
        assert all(torch.equal(found[key], value) for key, value in expected.items())
