"""What an erased pipeline saves: a stock repository that verifies itself when it is loaded again."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoPipelineForText2Image, DiffusionPipeline, StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffusers_erasure.artifacts import ErasureState
from diffusers_erasure.encoders import RobustEncoder
from diffusers_erasure.errors import (
    ArtifactError,
    ArtifactFormatError,
    ConfigError,
    ErasureNotActiveError,
    ErasureStateError,
)
from diffusers_erasure.pipelines import (
    ErasedStableDiffusionPipeline,
    ErasureMissingWarning,
    load_base_pipeline,
)
from diffusers_erasure.pipelines.opening import public_name

Draw = Callable[..., Tensor]
Make = Callable[..., ErasedStableDiffusionPipeline]


@pytest.fixture
def erased(make_erased: Make, unet_artifact: Path, text_artifact: Path) -> ErasedStableDiffusionPipeline:
    """A pipeline with an erasure in the UNet and one in the text encoder."""
    return make_erased(unet_artifact, text_artifact)


@pytest.fixture
def saved(erased: ErasedStableDiffusionPipeline, tmp_path: Path) -> Path:
    """It, saved."""
    erased.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def reload(folder: Path, **options: Any) -> ErasedStableDiffusionPipeline:
    """Load a saved pipeline through our class."""
    pipe = ErasedStableDiffusionPipeline.from_pretrained(folder, **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("loader", [DiffusionPipeline, AutoPipelineForText2Image, StableDiffusionPipeline])
def test_stock_classes_draw_the_same(
    erased: ErasedStableDiffusionPipeline, saved: Path, draw: Draw, loader: Any
) -> None:
    stock = loader.from_pretrained(saved)
    stock.set_progress_bar_config(disable=True)
    assert type(stock) is StableDiffusionPipeline
    assert torch.equal(draw(stock, "dog"), draw(erased, "dog"))


def test_names_and_keys_are_stock(saved: Path) -> None:
    index = json.loads((saved / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline"
    assert index["text_encoder"] == ["transformers", "CLIPTextModel"]
    assert {erasure["name"] for erasure in index["_erasure"]["erasures"]} == {"church", "dog"}
    keys = load_file(saved / "text_encoder" / "model.safetensors")
    assert all(key.startswith("text_model.") for key in keys)
    assert not [path for path in saved.rglob("*") if path.suffix in (".bin", ".py")]


def test_it_is_loaded_verified_and_listed(
    erased: ErasedStableDiffusionPipeline, saved: Path, draw: Draw
) -> None:
    pipe = reload(saved)
    assert {erasure.name for erasure in pipe.erasures} == {"church", "dog"}
    assert pipe.verify_erasure().state is ErasureState.VERIFIED
    assert pipe.verify_erasure(name="church").state is ErasureState.VERIFIED
    assert torch.equal(draw(pipe, "dog"), draw(erased, "dog"))
    for change in (
        lambda: pipe.unload_erasure("dog"),
        lambda: pipe.set_erasure_scale("dog", 0.5),
        pipe.unload_erasure,
    ):
        with pytest.raises(ConfigError, match="came with the weights"):
            change()


def test_saved_again_it_is_the_same(saved: Path, tmp_path: Path, draw: Draw) -> None:
    reload(saved).save_pretrained(tmp_path / "again")
    assert torch.equal(draw(reload(tmp_path / "again"), "dog"), draw(reload(saved), "dog"))


def test_its_text_encoder_is_a_robust_encoder(saved: Path) -> None:
    encoder = RobustEncoder.from_pretrained(saved, subfolder="text_encoder")
    assert encoder.erasure is not None
    assert encoder.erasure.concepts == ("dog",)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_verified(saved: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    half = reload(saved, dtype=dtype)
    assert half.verify_erasure().state is ErasureState.VERIFIED
    half.save_pretrained(tmp_path / "half", variant="half")
    full = reload(tmp_path / "half", variant="half", dtype=torch.float32)
    assert full.dtype == torch.float32
    assert full.verify_erasure().state is ErasureState.VERIFIED


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-30] ^= 64
    path.write_bytes(data)


def _zero(path: Path) -> None:
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith("weight"))
    save_file({**tensors, name: torch.zeros_like(tensors[name])}, path, metadata={"format": "pt"})


def _edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _edit_entry(saved: Path, **changes: Any) -> None:
    entry = json.loads((saved / "model_index.json").read_text())["_erasure"]
    _edit_json(saved / "model_index.json", _erasure={**entry, **changes})


FAULTS: dict[str, Callable[[Path, Path], object]] = {
    "flipped bit in the unet": lambda saved, _: _flip(saved / "unet" / "diffusion_pytorch_model.safetensors"),
    "flipped bit in the encoder": lambda saved, _: _flip(saved / "text_encoder" / "model.safetensors"),
    "zeros in the encoder": lambda saved, _: _zero(saved / "text_encoder" / "model.safetensors"),
    "unet of the base": lambda saved, base: (
        saved / "unet" / "diffusion_pytorch_model.safetensors"
    ).write_bytes((base / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()),
    "encoder of the base": lambda saved, base: (saved / "text_encoder" / "model.safetensors").write_bytes(
        (base / "text_encoder" / "model.safetensors").read_bytes()
    ),
    "epsilon of the encoder": lambda saved, _: _edit_json(
        saved / "text_encoder" / "config.json", layer_norm_eps=1e-3
    ),
    "epsilon of the unet": lambda saved, _: _edit_json(saved / "unet" / "config.json", norm_eps=1e-2),
    "unknown format": lambda saved, _: _edit_json(saved / "model_index.json", _erasure={"format_version": 9}),
    "a seal without its config": lambda saved, _: _edit_entry(saved, configs={}),
    "empty entry": lambda saved, _: _edit_json(saved / "model_index.json", _erasure={}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_changed_folders_are_refused(saved: Path, tiny_pipe_folder: Path, fault: str) -> None:
    FAULTS[fault](saved, tiny_pipe_folder)
    with pytest.raises(ArtifactError, match=";"):
        reload(saved)


def test_files_that_are_overwritten_later_do_not_reach_the_weights(saved: Path) -> None:
    pipe = reload(saved)
    for path in saved.glob("*/*.safetensors"):
        with path.open("r+b") as file:
            file.write(b"\0" * path.stat().st_size)
    assert pipe.verify_erasure().state is ErasureState.VERIFIED


@pytest.mark.parametrize("require_erasure", [True, False])
def test_changed_folder_draws_only_with_permission(saved: Path, draw: Draw, require_erasure: bool) -> None:
    _flip(saved / "unet" / "diffusion_pytorch_model.safetensors")
    with pytest.warns(ErasureMissingWarning, match="unverified"):
        pipe = reload(saved, allow_unverified=True, require_erasure=require_erasure)
    with pytest.warns(ErasureMissingWarning, match="as asked"):
        draw(pipe, "dog")


def test_changed_pipeline_is_not_saved_as_erased(
    erased: ErasedStableDiffusionPipeline, tmp_path: Path
) -> None:
    with torch.no_grad():
        next(erased.unet.parameters()).add_(0.1)
    with pytest.raises(ErasureNotActiveError, match="unet"):
        erased.save_pretrained(tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []
    erased.save_pretrained(tmp_path / "saved", allow_unverified=True)
    assert "_erasure" not in json.loads((tmp_path / "saved" / "model_index.json").read_text())


def test_it_is_no_base_unless_asked_for(saved: Path) -> None:
    with pytest.raises(ArtifactFormatError, match=r"saved erased of (church|dog).*allow_erased=True"):
        load_base_pipeline(saved)
    assert type(load_base_pipeline(saved, allow_erased=True)) is StableDiffusionPipeline


def test_adapters_are_not_saved(erased: ErasedStableDiffusionPipeline, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    name = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_q"
    width = erased.unet.get_submodule(name.removeprefix("unet.")).in_features
    erased.load_lora_weights(
        {f"{name}.lora_A.weight": torch.ones(2, width), f"{name}.lora_B.weight": torch.ones(width, 2)}
    )
    with pytest.raises(ErasureStateError, match="unload_lora_weights"):
        erased.save_pretrained(tmp_path / "saved")


def test_nothing_is_overwritten_unasked(
    erased: ErasedStableDiffusionPipeline, saved: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="overwrite=True"):
        erased.save_pretrained(saved)
    erased.save_pretrained(saved, overwrite=True)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    with pytest.raises(ConfigError, match="no pipeline"):
        erased.save_pretrained(tmp_path / "notes", overwrite=True)
    with pytest.raises(ConfigError, match="pickles"):
        erased.save_pretrained(tmp_path / "new", safe_serialization=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes", "saved"]
    reload(saved)


@pytest.mark.parametrize("there", ["nothing", "an empty folder", "a pipeline"])
def test_a_link_stays_a_link_to_what_is_saved(
    erased: ErasedStableDiffusionPipeline, tmp_path: Path, there: str
) -> None:
    place, link = tmp_path / "elsewhere" / "real", tmp_path / "link"
    place.parent.mkdir()
    link.symlink_to(place, target_is_directory=True)
    if there == "an empty folder":
        place.mkdir()
    if there == "a pipeline":
        erased.save_pretrained(place)
        with pytest.raises(ConfigError, match="overwrite=True"):
            erased.save_pretrained(link)
    erased.save_pretrained(link, overwrite=there == "a pipeline")
    assert link.is_symlink()
    assert reload(link).verify_erasure().state is ErasureState.VERIFIED
    assert [path.name for path in place.parent.iterdir()] == ["real"]


def test_drafts_of_killed_saves_are_swept(erased: ErasedStableDiffusionPipeline, tmp_path: Path) -> None:
    names = [".saved.partial-1-old", ".saved.partial-1-new", ".other.partial-1-old"]
    for name in names:
        (tmp_path / name).mkdir()
        if name.endswith("old"):
            os.utime(tmp_path / name, (0, 0))
    erased.save_pretrained(tmp_path / "saved")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names[1:], "saved"])


@pytest.mark.parametrize("base", ["absolute", "relative/base", "~/relative/base"])
def test_no_saved_file_tells_where_its_base_lay(
    tiny_pipe_folder: Path,
    unet_artifact: Path,
    text_artifact: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    base: str,
) -> None:
    home = tmp_path / "home"
    shutil.copytree(tiny_pipe_folder, home / "relative" / "base")
    monkeypatch.chdir(home)
    monkeypatch.setenv("HOME", str(home))
    place = str(home / "relative" / "base") if base == "absolute" else base
    pipe = ErasedStableDiffusionPipeline.from_pretrained(place, erasure=[unet_artifact, text_artifact])
    monkeypatch.chdir(tmp_path)
    pipe.save_pretrained(tmp_path / "saved")
    ErasedStableDiffusionPipeline.from_pipe(pipe).save_pretrained(tmp_path / "sibling")
    reload(tmp_path / "saved").save_pretrained(tmp_path / "again")
    for folder in ("saved", "sibling", "again"):
        files = [path for path in (tmp_path / folder).rglob("*") if path.is_file()]
        assert len(files) > 8
        for path in files:
            content = path.read_bytes()
            told = [word for word in (b"relative/base", bytes(tmp_path), b"_name_or_path") if word in content]
            assert not told, path


def test_the_index_names_the_embedded_base(tmp_path: Path) -> None:
    pipe = ErasedStableDiffusionPipeline.from_pretrained("embedded", erasure="embedded/church-uce")
    ErasedStableDiffusionPipeline.from_pipe(pipe).save_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "model_index.json").read_text())["_name_or_path"] == "embedded"


def test_a_base_from_the_hub_may_be_told_and_a_folder_of_that_name_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert public_name("org/base") == "org/base"
    (tmp_path / "org" / "base").mkdir(parents=True)
    assert not public_name("org/base")
