"""Draw pictures with an erasure loaded, beside the base model's where asked, as one labelled PNG.

diffusers-erasure generate --prompt "a church" --prompt "a dog" --erasure outputs/church-uce --compare
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from diffusers_erasure.durable import write_whole
from diffusers_erasure.errors import ConfigError

from .console import say
from .device import Device, compute_device
from .drawing import choose_sampling, erased_twin, open_model, progress_display
from .flags import read_flags

if TYPE_CHECKING:
    from torch import Tensor

MAX_SEED = 2**63 - 1


@dataclass(frozen=True)
class GenerateArguments:
    """Draw pictures with an erasure loaded."""

    prompt: tyro.conf.UseAppendAction[tuple[str, ...]]
    """What to draw; give it once per prompt."""
    erasure: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Artifact to load, a folder or Hub id; give it once per erasure. None: the model as it is."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("outputs/generated.png")
    """PNG file to write."""
    compare: bool = False
    """Draw the base model's pictures above, with the same prompts and seeds."""
    num_images: int = 1
    """Pictures per prompt, with the seeds that follow `seed`."""
    seed: int = 0
    """Seed of the first picture of each prompt."""
    pretrained_model_name_or_path: str | None = None
    """Base model, or a pipeline that was saved erased; else the first erasure's, or the embedded."""
    num_inference_steps: int | None = None
    """Sampling steps; what suits the base model unless given."""
    guidance_scale: float | None = None
    """Classifier-free guidance; what suits the base model unless given."""
    batch_size: int = 10
    """Pictures drawn together; changes speed, not pictures."""
    cell: int = 192
    """Side of a picture in the PNG, in pixels."""
    device: Device = ""
    """where to compute: cuda, mps, cpu"""


def main(argv: Sequence[str]) -> int:
    """Run `diffusers-erasure generate`."""
    arguments = read_flags(GenerateArguments, argv, "diffusers-erasure generate")
    _check(arguments)
    arguments = replace(arguments, device=compute_device(arguments.device))
    path = _write(arguments, _draw_rows(arguments))
    say(f"wrote {path}")
    return 0


def _check(arguments: GenerateArguments) -> None:
    if not arguments.prompt:
        raise ConfigError(
            'there is no prompt; expected at least one to draw; give --prompt "a church", once per prompt'
        )
    if arguments.num_images < 1 or not 0 <= arguments.seed <= MAX_SEED - arguments.num_images:
        raise ConfigError(
            f"--num_images {arguments.num_images} with --seed {arguments.seed} cannot be drawn; expected at "
            "least one picture and a seed from 0 on; correct them"
        )
    if arguments.cell < 1 or arguments.batch_size < 1:
        raise ConfigError(
            f"--cell {arguments.cell} and --batch_size {arguments.batch_size} show nothing; expected 1 or "
            "more of each; correct them"
        )
    if arguments.compare and not arguments.erasure:
        raise ConfigError(
            "--compare was given without an erasure; expected --erasure FOLDER_OR_ID to compare the base "
            "with; name one, or leave --compare out"
        )


def _draw_rows(arguments: GenerateArguments) -> dict[str, Tensor]:
    """Pictures by row label, each `(prompts * images, 3, height, width)` uint8."""
    from diffusers_erasure.evaluation.generate import draw

    model = _model(arguments)
    base = open_model(model).to(arguments.device)
    pipes = {"before": base} if arguments.compare or not arguments.erasure else {}
    if arguments.erasure:
        pipes["after" if arguments.compare else "erased"] = erased_twin(base, arguments.erasure)
    prompts = [prompt for prompt in arguments.prompt for _ in range(arguments.num_images)]
    seeds = [arguments.seed + index for _ in arguments.prompt for index in range(arguments.num_images)]
    rows = {}
    with progress_display() as report:
        for label, pipe in pipes.items():
            drawings = draw(
                pipe,
                prompts,
                seeds,
                sampling=choose_sampling(model, arguments.num_inference_steps, arguments.guidance_scale),
                batch_size=arguments.batch_size,
                progress=partial(report, label),
            )
            rows[label] = drawings.whole()
    return rows if arguments.erasure else {"": rows["before"]}


def _model(arguments: GenerateArguments) -> str:
    """The base model: as given, as the first erasure names it, or the embedded pipeline."""
    from diffusers_erasure.artifacts.door import load_artifact
    from diffusers_erasure.embedded import EMBEDDED_MODEL_ID

    if arguments.pretrained_model_name_or_path is not None:
        return arguments.pretrained_model_name_or_path
    return load_artifact(arguments.erasure[0]).manifest.base.id if arguments.erasure else EMBEDDED_MODEL_ID


def _write(arguments: GenerateArguments, rows: dict[str, Tensor]) -> Path:
    from diffusers_erasure.diffusion.pictures import png_bytes
    from diffusers_erasure.evaluation.grid import Column, make_grid

    columns = [
        Column(
            caption=f"seed {arguments.seed + image}" if arguments.num_images > 1 else "",
            pictures=tuple(pictures[place * arguments.num_images + image] for pictures in rows.values()),
            group=prompt,
        )
        for place, prompt in enumerate(arguments.prompt)
        for image in range(arguments.num_images)
    ]
    grid = make_grid(columns, list(rows), cell=arguments.cell, per_band=8)
    path = arguments.output.expanduser()
    write_whole(path, png_bytes(grid))
    return path
