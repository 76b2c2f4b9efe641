"""A second pipeline of the embedded one's architecture: its UNet, trained further on a few styles.

    python -m benchmarks.second_pipeline --work_dir runs/embedded --output_dir runs/second

Like a community checkpoint it has a look of its own: it goes on with the project's own recipe, on pictures of
the chosen styles only, so that a plain prompt is drawn in that look. Text encoder, VAE and tokenizer stay.
What an erased text encoder is worth elsewhere is measured on it (`benchmarks/transfer.py`).

Writes a stock `StableDiffusionPipeline` folder (`pipeline/`), what a judge sees in plain prompts on both
pipelines (`second.json`), and both with the same prompts and seeds (`sheet.png`). The scenes are those of the
recipe's working folder, drawn first where they are missing (that needs npm's client and resvg_py). A run that
was stopped goes on where it was; the exit code is 1 if the judge sees less than what is asked for.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diffusers_erasure import embedded_pipeline
from diffusers_erasure.artifacts.fingerprint import fingerprint
from diffusers_erasure.cli import console
from diffusers_erasure.concepts import ConceptKind
from diffusers_erasure.diffusion.pictures import png_bytes
from diffusers_erasure.durable import write_whole
from diffusers_erasure.embedded import EMBEDDED_GUIDANCE_SCALE, EMBEDDED_STEPS
from diffusers_erasure.embedded.recipe.artwork import fetch_artwork
from diffusers_erasure.embedded.recipe.dataset import build_scenes
from diffusers_erasure.embedded.recipe.diffusion import Lessons, continue_diffusion
from diffusers_erasure.embedded.recipe.loop import Schedule, World
from diffusers_erasure.embedded.recipe.pack import pack_pipeline
from diffusers_erasure.embedded.recipe.vae import encode
from diffusers_erasure.embedded.vocabulary import CONCEPTS, STYLES
from diffusers_erasure.errors import TrainingError
from diffusers_erasure.evaluation.generate import Artist, Sampling
from diffusers_erasure.evaluation.grid import Column, make_grid
from diffusers_erasure.evaluation.judges import Panel, load_panel
from diffusers_erasure.evaluation.proportion import Proportion
from diffusers_erasure.pipelines.base import load_base_pipeline
from diffusers_erasure.prompts import fill, templates

GOAL = 0.95
"""Share of its plain prompts in which the judge must see what was asked for."""
LOOK = ("fluent", "pixel")
_TRAIN_SEED, _FIRST_SEED, _SHOWN = 3, 9_500_000, 17


def plain_prompts(each: int) -> tuple[list[str], list[str]]:
    """Every concept in so many wordings that no method trains on; prompts, and what each asks for."""
    wordings = templates(ConceptKind.object, "test")
    asked = [(wordings[turn % len(wordings)], name) for turn in range(each) for name in CONCEPTS]
    return [fill(wording, name) for wording, name in asked], [name for _, name in asked]


def gather_lessons(pipe: Any, work_dir: Path, styles: Sequence[str]) -> Lessons:
    """The recipe's scenes in the chosen styles, as latents of this pipeline's own VAE.

    Raises:
        TrainingError: The working folder has no such scenes.
    """
    artwork = {} if (work_dir / "data" / "scenes.json").exists() else fetch_artwork(work_dir / "artwork")
    scenes = build_scenes(artwork, work_dir / "data", seed=0, progress=_log)
    rows = [row for row, scene in enumerate(scenes.scenes) if scene.style in styles]
    found = {scenes.scenes[row].style for row in rows}
    if found != set(styles):
        raise TrainingError(
            f"{work_dir / 'data'} has no scenes in {', '.join(sorted(set(styles) - found))}; expected those "
            f"of the present recipe ({', '.join(STYLES)}); remove its scenes.json to have them drawn anew, "
            "or give another --work_dir"
        )
    latents = encode(pipe.vae, np.asarray(scenes.pictures[rows])) * pipe.vae.config.scaling_factor
    return Lessons(latents, tuple(scenes.scenes[row] for row in rows), pipe.tokenizer, pipe.text_encoder)


def hold_settings(path: Path, settings: dict[str, Any]) -> None:
    """Keep a run's settings beside its checkpoint; refuse to go on with others.

    Raises:
        TrainingError: The folder holds a run with other settings.
    """
    if path.exists():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept != json.loads(json.dumps(settings)):
            raise TrainingError(
                f"{path.parent} holds a run with the settings {kept}; expected {settings}, since one run's "
                "checkpoint cannot go on as another; give another --output_dir, or remove that folder"
            )
    write_whole(path, json.dumps(settings, indent=1).encode())


def fine_tune(work_dir: Path, folder: Path, styles: Sequence[str], schedule: Schedule) -> Path:
    """Train the embedded pipeline's UNet further and write the whole as a stock pipeline; its folder."""
    target = folder / "pipeline"
    pipe = embedded_pipeline()
    settings = {"styles": list(styles), **asdict(schedule), "from": fingerprint(pipe.unet)}
    hold_settings(folder / "training" / "settings.json", settings)
    if not target.exists():
        lessons = gather_lessons(pipe, work_dir, styles)
        unet = continue_diffusion(
            pipe.unet, lessons, schedule, folder=folder / "training", seed=_TRAIN_SEED, world=World()
        )
        staging = folder / "pipeline.new"
        pack_pipeline(unet, pipe.text_encoder, pipe.vae, pipe.tokenizer, staging)
        staging.rename(target)
    return target


def measure(second: Path, folder: Path, each: int) -> tuple[dict[str, Any], Image.Image]:
    """Plain prompts on both pipelines: what the judges see, how far apart the pictures are, and a sheet."""
    panel = load_panel()
    prompts, asked = plain_prompts(each)
    seeds = [_FIRST_SEED + index for index in range(len(prompts))]
    found, drawn = {}, []
    with console.progress("plain prompts") as report:
        for name, pipe in (("base", embedded_pipeline()), ("second", load_base_pipeline(second))):
            sampling = Sampling(EMBEDDED_STEPS, EMBEDDED_GUIDANCE_SCALE)
            artist = Artist(pipe, sampling, 20, folder / "pictures")
            images = artist.draw(prompts, seeds, partial(_tell, report, name)).whole()
            found[name] = answers(panel, images, asked)
            drawn.append(images)
    apart = (drawn[0].float() - drawn[1].float()).abs().mean() / 255
    figures = {"plain prompts": found, "mean distance of pixels, of 1": round(float(apart), 4)}
    return figures, sheet(drawn, prompts)


def answers(panel: Panel, images: Tensor, asked: Sequence[str]) -> dict[str, Any]:
    """How often the judge sees what was asked for, and which styles it sees."""
    if panel.style is None:
        raise TrainingError("the panel has no style judge; expected one; take the embedded judges")
    parts = images.split(64)
    named = [name for part in parts for name in panel.concept.judge(part).names]
    styles = Counter(name for part in parts for name in panel.style.judge(part).names)
    hits = sum(saw == wanted for saw, wanted in zip(named, asked, strict=True))
    return {"concept": Proportion.of(hits, len(asked)).model_dump(), "styles": dict(styles.most_common())}


def sheet(drawn: Sequence[Tensor], prompts: Sequence[str]) -> Image.Image:
    """The base above, the second pipeline below; every fourth concept."""
    shown = range(0, len(CONCEPTS), max(1, len(CONCEPTS) // _SHOWN))
    columns = [Column(prompts[index], tuple(images[index] for images in drawn)) for index in shown]
    return make_grid(
        columns,
        ["base", "second"],
        title="The same prompts and seeds on the embedded pipeline and on the second one",
        cell=96,
        per_band=9,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Train, measure, show: 0 if the judge sees what is asked for, 1 if not."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--work_dir", type=Path, default=Path("runs/embedded"), help="the recipe's folder")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/second"))
    parser.add_argument("--styles", nargs="+", choices=STYLES, default=list(LOOK), help="the look")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--learning_rate", type=float, default=3e-4)
    parser.add_argument("--ema_decay", type=float, default=0.98)
    parser.add_argument("--each", type=int, default=4, help="plain prompts of each concept that are measured")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(given.threads)
    schedule = Schedule(given.steps, given.learning_rate, given.ema_decay)
    second = fine_tune(given.work_dir, given.output_dir, given.styles, schedule)
    figures, picture = measure(second, given.output_dir, given.each)
    write_whole(given.output_dir / "second.json", json.dumps(figures, indent=1).encode())
    write_whole(given.output_dir / "sheet.png", png_bytes(picture))
    shares = {name: Proportion(**row["concept"]) for name, row in figures["plain prompts"].items()}
    rows = [
        (name, share, ", ".join(f"{style} {n}" for style, n in list(styles.items())[:4]))
        for (name, share), styles in zip(
            shares.items(), (row["styles"] for row in figures["plain prompts"].values()), strict=True
        )
    ]
    console.show_table(("pipeline", "sees what was asked for", "styles that it sees"), rows)
    console.say(f"pipeline: {second}; sheet: {given.output_dir / 'sheet.png'}")
    return 0 if shares["second"].rate >= GOAL else 1


def _tell(report: console.ProgressCallback, what: str, done: int, total: int) -> None:
    report(done, total, what)


def _log(what: str, done: int, total: int) -> None:
    logging.getLogger(__name__).info("%s %d/%d", what, done, total)


if __name__ == "__main__":
    raise SystemExit(main())
