"""Erase a concept from the embedded pipeline, load it back, draw before and after, and measure it.

It is the whole product in one go, and runs without a GPU, an account or a download: train by closed form,
save the artifact, load it drop-in, draw the same prompts and seeds with and without it, and count what the
judges see. For a concept of which erasures ship with the package, these stand beside it in the picture, and
what was measured of them in a table.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from diffusers_erasure.durable import write_whole

from .console import note, out, say
from .drawing import Report, progress_display
from .flags import read_flags

if TYPE_CHECKING:
    from diffusers_erasure.evaluation.runner import Evaluation


@dataclass(frozen=True)
class DemoArguments:
    """Erase a concept from the embedded pipeline, and show it."""

    concept: tuple[str, ...] = ("church",)
    """What to erase: concepts, a style, or a theme of the embedded pipeline."""
    method: str = "uce"
    """Erasure method; trained now, so one that takes minutes makes the demo take minutes."""
    n: int = 16
    """Pictures per prompt set, before and after each."""
    output_dir: Path = Path("outputs")
    """Gets demo.png, and demo/ with the artifact, the report and the single pictures."""


def main(argv: Sequence[str]) -> int:
    """Run `diffusers-erasure demo`."""
    arguments = read_flags(DemoArguments, argv, "diffusers-erasure demo")
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
    _attach(found, artifact)
    others = shipped_rivals(arguments.concept, besides=arguments.method)
    if others:
        note(f"3  draw them with the erasures that ship with the package too: {', '.join(others)}")
    picture = _picture(arguments, found, others)
    note(f"{4 if others else 3}  what the judges see, in {arguments.n} pictures per row")
    _print_tables(found, others)
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
    return evaluate_pipelines(
        Subject(load_base_pipeline(EMBEDDED_MODEL_ID), erased, loaded, EMBEDDED_MODEL_ID),
        plan=embedded_prompt_plan(loaded.manifest.concepts, n=arguments.n),
        panel=load_panel(),
        output_dir=arguments.output_dir / "demo",
        settings=EvaluationSettings(n=arguments.n),
        progress=lambda name, done, total: report(f"   {name}", done, total),
    )


def shipped_rivals(concepts: Sequence[str], *, besides: str) -> dict[str, Path]:
    """Folders of the erasures of just these concepts that ship with the package, by method.

    Args:
        concepts: Names of the concepts.
        besides: Method that is left out.
    """
    from diffusers_erasure.artifacts.manifest import MANIFEST_NAME, parse_manifest
    from diffusers_erasure.embedded import embedded_erasures

    found: dict[str, Path] = {}
    for name, folder in embedded_erasures().items():
        manifest = parse_manifest((folder / MANIFEST_NAME).read_bytes(), origin=name)
        if set(manifest.concept_names) == set(concepts) and manifest.method != besides:
            found[manifest.method] = folder
    return found


def _attach(found: Evaluation, artifact: Path) -> None:
    """Put the report into the artifact."""
    from .evaluate import attach_evaluation

    attach_evaluation(artifact, found.folder, found.report)


def _picture(arguments: DemoArguments, found: Evaluation, others: Mapping[str, Path]) -> Path:
    """Put the picture where it is easily found: every method in a row, or the evaluation's own grid."""
    from diffusers_erasure.artifacts.door import load_artifact
    from diffusers_erasure.diffusion.pictures import png_bytes
    from diffusers_erasure.embedded import EMBEDDED_MODEL_ID
    from diffusers_erasure.evaluation.generate import sampling_defaults
    from diffusers_erasure.evaluation.runner import GRID_NAME
    from diffusers_erasure.evaluation.side_by_side import side_by_side
    from diffusers_erasure.pipelines.base import load_base_pipeline

    picture = arguments.output_dir / "demo.png"
    if not others:
        write_whole(picture, (found.folder / GRID_NAME).read_bytes())
        return picture
    with progress_display() as report:
        grid = side_by_side(
            found.measured,
            arguments.method,
            {name: load_artifact(folder) for name, folder in others.items()},
            load_base_pipeline(EMBEDDED_MODEL_ID),
            sampling=sampling_defaults(EMBEDDED_MODEL_ID),
            title=f"{', '.join(arguments.concept)}, erased by {1 + len(others)} methods",
            progress=lambda name, done, total: report(f"   {name}", done, total),
        )
    write_whole(picture, png_bytes(grid))
    return picture


def _print_tables(found: Evaluation, others: Mapping[str, Path]) -> None:
    from diffusers_erasure.evaluation.report import read_report
    from diffusers_erasure.evaluation.runner import REPORT_NAME
    from diffusers_erasure.evaluation.tables import methods_table, report_table

    out().print(report_table(found.report))
    if others:
        reports = {name: read_report(folder / REPORT_NAME) for name, folder in others.items()}
        out().print(methods_table(reports, title="on record of erasures that ship with the package"))
