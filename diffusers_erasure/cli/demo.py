"""Erase a concept from the embedded pipeline, load it back, draw before and after, and measure it.

It is the whole product in one go, and runs without a GPU, an account or a download: train by closed form,
save the artifact, load it drop-in, draw the same prompts and seeds with and without it, and count what the
judges see.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from .console import note, out, say
from .drawing import Report, progress_display

if TYPE_CHECKING:
    from diffusers_erasure.evaluation.runner import Evaluation


@dataclass(frozen=True)
class DemoArguments:
    """Erase a concept from the embedded pipeline, and show it."""

    concept: tuple[str, ...] = ("church",)
    """What to erase: concepts, a style, or a theme of the embedded pipeline."""
    method: str = "uce"
    """Erasure method."""
    n: int = 16
    """Pictures per prompt set, before and after each."""
    output_dir: Path = Path("outputs")
    """Gets demo.png, and demo/ with the artifact, the report and the single pictures."""


def main(argv: Sequence[str]) -> int:
    """Run `diffusers-erasure demo`."""
    arguments = tyro.cli(DemoArguments, args=list(argv), prog="diffusers-erasure demo")
    started = time.monotonic()
    _use_one_thread()
    names = ", ".join(arguments.concept)
    note(f"1  erase {names!r} from the embedded pipeline with {arguments.method}")
    with progress_display() as report:
        artifact = _train(arguments, report)
    note(f"   saved the artifact {artifact}")
    note("2  load it back drop-in; draw the same prompts and seeds before and after")
    with progress_display() as report:
        found = _measure(arguments, artifact, report)
    picture = _publish(arguments, found, artifact)
    note(f"3  what the judges see, in {arguments.n} pictures per row")
    _print_table(found)
    seconds = time.monotonic() - started
    say(f"done in {seconds:.0f} s; see the picture: {picture}")
    return 0


def _use_one_thread() -> None:
    """Matrices of 64-pixel pictures are too small to share; on a busy machine threads wait for each other."""
    import torch

    torch.set_num_threads(1)


def _train(arguments: DemoArguments, report: Report) -> Path:
    """Train and save; returns the artifact's folder."""
    from diffusers_erasure.artifacts.manifest import BaseModelRef
    from diffusers_erasure.artifacts.store import save_artifact
    from diffusers_erasure.embedded import EMBEDDED_MODEL_ID
    from diffusers_erasure.pipelines.base import load_base_pipeline
    from diffusers_erasure.training import method

    spec = method(arguments.method)
    trained = spec.train(
        load_base_pipeline(EMBEDDED_MODEL_ID),
        spec.config.parse({"concept": arguments.concept}),
        base=BaseModelRef(id=EMBEDDED_MODEL_ID),
        progress=lambda step: report(f"   {step.phase}", step.done, step.total),
    )
    name = "-".join((*arguments.concept, arguments.method)).replace(" ", "-")
    return save_artifact(trained, arguments.output_dir / "demo" / name, overwrite=True)


def _measure(arguments: DemoArguments, artifact: Path, report: Report) -> Evaluation:
    """Load the saved artifact as a user would, and measure that pipeline."""
    from diffusers_erasure.artifacts.door import load_artifact
    from diffusers_erasure.embedded import EMBEDDED_MODEL_ID
    from diffusers_erasure.evaluation.embedded_prompts import embedded_prompt_plan
    from diffusers_erasure.evaluation.judges import load_panel
    from diffusers_erasure.evaluation.runner import EvaluationSettings, Subject, evaluate_pipelines
    from diffusers_erasure.pipelines import ErasedStableDiffusionPipeline
    from diffusers_erasure.pipelines.base import load_base_pipeline

    loaded = load_artifact(artifact)
    erased = ErasedStableDiffusionPipeline.from_pretrained(EMBEDDED_MODEL_ID, erasure=str(artifact))
    settings = EvaluationSettings(n=arguments.n)
    return evaluate_pipelines(
        Subject(load_base_pipeline(EMBEDDED_MODEL_ID), erased, loaded, EMBEDDED_MODEL_ID),
        plan=embedded_prompt_plan(loaded.manifest.concepts, n=settings.n),
        panel=load_panel(),
        output_dir=arguments.output_dir / "demo",
        settings=settings,
        progress=lambda name, done, total: report(f"   {name}", done, total),
    )


def _publish(arguments: DemoArguments, found: Evaluation, artifact: Path) -> Path:
    """Put the report into the artifact, and the picture where it is easily found."""
    from diffusers_erasure.evaluation.pictures import write_atomically
    from diffusers_erasure.evaluation.runner import GRID_NAME

    from .evaluate import attach_evaluation

    attach_evaluation(artifact, found.folder, found.report)
    picture = arguments.output_dir / "demo.png"
    write_atomically(picture, (found.folder / GRID_NAME).read_bytes())
    return picture


def _print_table(found: Evaluation) -> None:
    from diffusers_erasure.evaluation.tables import report_table

    out().print(report_table(found.report))
