"""Packing and shipping: what lands in the package can be checked, loaded and attributed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file
from transformers import CLIPTextModel, CLIPTokenizer

from diffusers_erasure.embedded.judges import JudgeNetwork
from diffusers_erasure.embedded.recipe import diffusion, pack, text
from diffusers_erasure.embedded.recipe.artwork import SOURCES
from diffusers_erasure.embedded.recipe.dataset import Scene
from diffusers_erasure.embedded.recipe.tokenizer import train_tokenizer


@dataclass(frozen=True)
class Networks:
    """What is packed."""

    unet: UNet2DConditionModel
    text: CLIPTextModel
    tokenizer: CLIPTokenizer


@pytest.fixture(scope="module")
def network() -> Networks:
    """The recipe's networks with narrower UNet and text encoder, fresh weights."""
    tokenizer = train_tokenizer((Scene(("dog",), "ink", None),) * 20, (), seed=0)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(diffusion, "CHANNELS", (16, 16, 16))
        patched.setattr(diffusion, "WIDTH", 16)
        patched.setattr(text, "WIDTH", 16)
        torch.manual_seed(0)
        return Networks(diffusion.new_unet().eval(), text.new_text_encoder(tokenizer).eval(), tokenizer)


@pytest.fixture(scope="module")
def work_dir(network: Networks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a packed pipeline and a judge."""
    folder = tmp_path_factory.mktemp("work")
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=8,
        sample_size=64,
    )
    pack.pack_pipeline(network.unet, network.text, vae, network.tokenizer, folder / "pipeline")
    pack.pack_judge(JudgeNetwork("style"), folder / "judges")
    return folder


@pytest.fixture
def shipped(work_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The model folder after shipping."""
    monkeypatch.setattr(pack, "embedded_folder", lambda: tmp_path / "model")
    folder = pack.ship(work_dir)
    assert folder == tmp_path / "model"
    return folder


def verified(folder: Path) -> list[str]:
    """Names of the files in SHA256SUMS; fails if one of them differs."""
    names = []
    for line in (folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest, name
        names.append(name)
    return names


def test_the_pipeline_is_a_stock_folder_in_half_precision(work_dir: Path, network: Networks) -> None:
    folder = work_dir / "pipeline"
    weights = load_file(folder / "text_encoder" / "model.safetensors")
    assert all(name.startswith("text_model.") for name in weights)
    assert {value.dtype for value in weights.values() if value.is_floating_point()} == {torch.float16}
    loaded = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    assert type(loaded) is StableDiffusionPipeline
    assert loaded.tokenizer.get_vocab() == network.tokenizer.get_vocab()
    for mine, theirs in ((network.text, loaded.text_encoder), (network.unet, loaded.unet)):
        expected, found = mine.state_dict(), theirs.state_dict()
        assert set(found) == set(expected)
        assert all(torch.equal(found[key], expected[key].half().float()) for key in found)


def test_what_was_packed_draws(work_dir: Path) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(work_dir / "pipeline", dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    drawn = pipeline("a dog", num_inference_steps=2, output_type="pt").images
    assert drawn.shape == (1, 3, 64, 64)
    assert drawn.isfinite().all()


def test_the_sums_verify_and_name_every_weight(shipped: Path) -> None:
    names = verified(shipped)
    weights = {path.relative_to(shipped).as_posix() for path in shipped.rglob("*.safetensors")}
    assert weights == {
        "judges/style.safetensors",
        "text_encoder/model.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    }
    assert weights | {"model_index.json", "judges/style.json", "tokenizer/tokenizer.json"} <= set(names)
    assert names == sorted(names)


def test_shipping_again_replaces_what_changed(shipped: Path, work_dir: Path) -> None:
    before = (shipped / "SHA256SUMS").read_bytes()
    damaged = shipped / "unet" / "diffusion_pytorch_model.safetensors"
    damaged.write_bytes(b"something else")
    (shipped / "unet" / "of-an-earlier-run.safetensors").write_bytes(b"left behind")
    pack.ship(work_dir)
    assert (shipped / "SHA256SUMS").read_bytes() == before
    verified(shipped)


def test_what_ships_can_be_read_by_everyone(shipped: Path) -> None:
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in shipped.rglob("*"))


def test_everybody_whose_drawings_trained_it_is_named(shipped: Path) -> None:
    attribution = (shipped / "ATTRIBUTION.md").read_text(encoding="utf-8")
    for source in SOURCES.values():
        row = f"| {source.package} {source.version} | {source.author} | {source.licence} |"
        assert (row in attribution) is source.trains
    assert all(
        source.licence in {"Apache-2.0", "MIT", "CC-BY-4.0"} for source in SOURCES.values() if source.trains
    )
