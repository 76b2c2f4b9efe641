"""Measure the embedded pipeline and draw its contact sheet.

diffusers-erasure embedded evaluate --seeds 2
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from .console import note, progress, say, show_table
from .flags import read_flags

EXIT_MISSED = 1
"""Exit code when a figure missed its goal."""


@dataclass(frozen=True)
class EmbeddedArguments:
    """Measure the embedded pipeline against what it must reach, and draw its contact sheet."""

    action: tyro.conf.Positional[Literal["evaluate"]]
    """What to do."""
    seeds: int = 1
    """Pictures per concept and style."""
    output_dir: Path = Path("outputs/embedded")
    """Gets evaluation.json and sheet.png."""
    work_dir: Path | None = None
    """Working folder of the recipe, with unseen art; without it the autoencoder is not measured."""
    write_card: bool = False
    """Write card and report into the package's model folder as well."""


def main(argv: Sequence[str]) -> int:
    """Run `diffusers-erasure embedded`."""
    arguments = read_flags(EmbeddedArguments, argv, "diffusers-erasure embedded")
    from diffusers_erasure.embedded import embedded_folder, embedded_pipeline
    from diffusers_erasure.embedded.recipe.card import render_card
    from diffusers_erasure.embedded.recipe.measure import measure
    from diffusers_erasure.embedded.recipe.sheets import contact_sheet

    with progress("drawing") as report_progress:
        report, pictures, prompts = measure(
            embedded_pipeline(),
            seeds=arguments.seeds,
            work_dir=arguments.work_dir,
            progress=lambda what, done, total: report_progress(done, total, what),
        )
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    report_json = report.model_dump_json(indent=1)
    (arguments.output_dir / "evaluation.json").write_text(report_json + "\n", encoding="utf-8")
    sheet = arguments.output_dir / "sheet.png"
    contact_sheet(pictures, prompts).save(sheet)
    if arguments.write_card:
        (embedded_folder() / "README.md").write_text(render_card(report), encoding="utf-8")
        (embedded_folder() / "evaluation.json").write_text(report_json + "\n", encoding="utf-8")
    rows = [
        (figure.name, f"{figure.value:.1f} {figure.unit}", f"{figure.k}/{figure.n}" if figure.n else "",
         f"{figure.goal:g}", "yes" if figure.reached else "NO")
        for figure in report.figures
    ]  # fmt: skip
    show_table(("figure", "measured", "k/n", "goal", "reached"), rows, numbers=("measured", "k/n", "goal"))
    if arguments.work_dir is None:
        note("not measured: the autoencoder on unseen art (give the recipe's --work_dir)")
    say(f"contact sheet: {sheet}")
    return 0 if all(figure.reached for figure in report.figures) else EXIT_MISSED
