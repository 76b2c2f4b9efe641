"""Packing: fp16 safetensors in a stock pipeline folder, with sha256 sums and the attribution of the artwork.

The text encoder is written with `text_model.` keys, the layout of SD 1.x on the Hub, which every version of
transformers reads.
"""

import hashlib
import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTokenizer

from diffusers_erasure.embedded import embedded_folder
from diffusers_erasure.embedded.judges import JudgeNetwork
from diffusers_erasure.embedded.recipe.artwork import SOURCES
from diffusers_erasure.embedded.recipe.diffusion import new_scheduler

_PREFIX = "text_model."


def pack_pipeline(
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    vae: AutoencoderKL,
    tokenizer: CLIPTokenizer,
    folder: Path,
) -> None:
    """Write a stock `StableDiffusionPipeline` folder in fp16; replaces what is there."""
    pipeline = StableDiffusionPipeline(
        vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=new_scheduler(),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    shutil.rmtree(folder, ignore_errors=True)
    pipeline.to(dtype=torch.float16).save_pretrained(folder)
    path = folder / "text_encoder" / "model.safetensors"
    tensors = {_PREFIX + name.removeprefix(_PREFIX): value for name, value in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})


def pack_judge(judge: JudgeNetwork, folder: Path) -> None:
    """Write a judge as `<name>.safetensors` in fp16 and `<name>.json` with its labels."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.half().contiguous() for name, value in judge.state_dict().items()}
    save_file(tensors, folder / f"{judge.name}.safetensors")
    (folder / f"{judge.name}.json").write_text(
        json.dumps({"labels": judge.labels}, indent=1), encoding="utf-8"
    )


def ship(work_dir: Path) -> Path:
    """Copy pipeline and judges into the package, add `ATTRIBUTION.md` and `SHA256SUMS`; return the folder."""
    folder = embedded_folder()
    folder.mkdir(exist_ok=True)
    for part in (*(work_dir / "pipeline").iterdir(), work_dir / "judges"):
        if part.is_dir():
            shutil.rmtree(folder / part.name, ignore_errors=True)
            shutil.copytree(part, folder / part.name)
        else:
            shutil.copy(part, folder)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)  # safetensors writes files that only their owner reads
    (folder / "ATTRIBUTION.md").write_text(_attribution(), encoding="utf-8")
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix in {".safetensors", ".json"} and path.name != "evaluation.json"
    )
    sums = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder).as_posix()}"
        for path in files
    ]
    (folder / "SHA256SUMS").write_text("\n".join(sums) + "\n", encoding="utf-8")
    return folder


def _attribution() -> str:
    rows = [
        f"| {source.package} {source.version} | {source.author} | {source.licence} |"
        for source in SOURCES.values()
        if source.trains
    ]
    return "\n".join(
        [
            "# Attribution",
            "",
            "The weights in this folder were trained by this project on emoji artwork from these npm",
            "packages (`@iconify-json/<name>`). The drawings were scaled, recoloured, coarsened and composed",
            "onto backgrounds.",
            "",
            "| package | author | licence |",
            "|---|---|---|",
            *rows,
            "",
            "Apache-2.0: https://www.apache.org/licenses/LICENSE-2.0",
            "CC-BY-4.0: https://creativecommons.org/licenses/by/4.0/",
            "MIT: https://opensource.org/license/mit, Copyright (c) Microsoft Corporation.",
            "",
            "The authors of the artwork do not endorse this project.",
            "",
        ]
    )
