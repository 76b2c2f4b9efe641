"""A process in which this package cannot be imported loads what it saved, and draws the same pictures."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor
from transformers import CLIPTextModel

from diffusers_erasure.artifacts import BaseModelRef, DeltaEdit, build_artifact, save_artifact
from diffusers_erasure.concepts import Concept
from diffusers_erasure.encoders import RobustEncoder
from diffusers_erasure.pipelines import ErasedStableDiffusionPipeline

STOCK_PROCESS = """
import sys
sys.modules["diffusers_erasure"] = None  # importing it raises

import torch
import diffusers

loader = getattr(diffusers, sys.argv[1])
pipe = loader.from_pretrained(sys.argv[2])
pipe.set_progress_bar_config(disable=True)
torch.set_num_threads(1)
generator = torch.Generator().manual_seed(0)
options = dict(num_inference_steps=3, guidance_scale=4.0, output_type="pt")
torch.save(pipe("a dog", generator=generator, **options).images, sys.argv[3])
assert type(pipe).__name__ == "StableDiffusionPipeline", type(pipe)
"""

OLD_TRANSFORMERS = """
import sys
sys.modules["diffusers_erasure"] = None

import torch
import transformers

assert transformers.__version__.startswith("4.57."), transformers.__version__
model, report = transformers.CLIPTextModel.from_pretrained(sys.argv[1], output_loading_info=True)
assert not report["missing_keys"] and not report["unexpected_keys"], report
ids = torch.load(sys.argv[2], weights_only=True)
torch.save(model(ids)[0].detach(), sys.argv[3])
"""


def edit_everything(pipe: StableDiffusionPipeline, folder: Path) -> Path:
    """Save an artifact that changes both the text encoder and the UNet."""
    generator = torch.Generator().manual_seed(5)
    targets = {"unet": "attn2.to_v", "text_encoder": "mlp.fc2.weight"}
    edits = {
        part: DeltaEdit(
            {
                name: 0.2 * torch.randn(weight.shape, generator=generator)
                for name, weight in getattr(pipe, part).state_dict().items()
                if target in name
            }
        )
        for part, target in targets.items()
    }
    artifact = build_artifact(
        pipe,
        edits,
        method="uce",
        method_version="1",
        settings={},
        concepts=[Concept(name="church")],
        base=BaseModelRef(id="embedded"),
        seed=0,
        steps=0,
        canary_prompts=["a church"],
    )
    return save_artifact(artifact, folder)


def run(python: str, script: str, *arguments: object) -> None:
    """Run a script in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [python, "-c", script, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("loader", ["DiffusionPipeline", "AutoPipelineForText2Image"])
def test_stock_process_draws_identical_pictures(
    tiny_pipe: StableDiffusionPipeline,
    tiny_pipe_folder: Path,
    draw: Callable[..., Tensor],
    tmp_path: Path,
    loader: str,
) -> None:
    artifact = edit_everything(tiny_pipe, tmp_path / "artifact")
    erased = ErasedStableDiffusionPipeline.from_pretrained(tiny_pipe_folder, erasure=artifact)
    erased.set_progress_bar_config(disable=True)
    erased.save_pretrained(tmp_path / "saved")
    run(sys.executable, STOCK_PROCESS, loader, tmp_path / "saved", tmp_path / "pictures.pt")
    theirs = torch.load(tmp_path / "pictures.pt", weights_only=True)
    ours = draw(erased, "a dog")
    assert float((ours - theirs).abs().max()) == 0.0
    assert not torch.equal(ours, draw(tiny_pipe, "a dog"))


@pytest.mark.slow
def test_transformers_4_reads_the_encoder(tiny_pipe: StableDiffusionPipeline, tmp_path: Path) -> None:
    """Needs ``TRANSFORMERS_4_PYTHON``: a Python with torch and transformers 4.57."""
    python = os.environ.get("TRANSFORMERS_4_PYTHON")
    if python is None:
        pytest.skip("TRANSFORMERS_4_PYTHON names no Python with transformers 4.57")
    encoder: CLIPTextModel = tiny_pipe.text_encoder
    RobustEncoder.from_encoder(encoder, erasure={"method": "uce"}).save_pretrained(tmp_path / "encoder")
    ids = tiny_pipe.tokenizer(["a dog"], padding="max_length", return_tensors="pt").input_ids
    torch.save(ids, tmp_path / "ids.pt")
    run(python, OLD_TRANSFORMERS, tmp_path / "encoder", tmp_path / "ids.pt", tmp_path / "states.pt")
    states = torch.load(tmp_path / "states.pt", weights_only=True)
    assert float((states - encoder(ids)[0].detach()).abs().max()) == 0.0
