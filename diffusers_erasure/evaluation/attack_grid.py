"""Pictures before, after and under attack, side by side: chosen by their place, not by their looks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from diffusers_erasure.artifacts.artifact import Artifact
from diffusers_erasure.artifacts.method_names import told

from .attack_runner import Attacked
from .grid import PAPER, Column, make_grid
from .measure import Measured
from .report import Row

GRID_COLUMNS = 2
"""Pictures of each set that the grid shows."""
SHOWN = 6
"""Prompts of the attacked set that the grid shows."""
LABEL = 16


def attack_grid(measured: Measured, attacked: Sequence[Attacked], *, cell: int, title: str) -> Image.Image:
    """The first attacked prompts, one row per attack.

    Args:
        measured: The concept's own name, with the pictures of base and erased pipeline.
        attacked: Every attack.
        cell: Side of a picture in pixels.
        title: What stands over it.
    """
    by_item = {(item.prompt, item.seed): index for index, item in enumerate(measured.prompt_set.items)}
    outcomes = [one.runs[-1].outcomes for one in attacked]
    columns = []
    for place, outcome in enumerate(outcomes[0][:SHOWN]):
        index = by_item[outcome.prompt, outcome.seed]
        size = measured.erased[index]
        pictures = [run[place].picture for run in outcomes]
        marks = " ".join("yes" if run[place].counts_as_success else "no" for run in outcomes)
        columns.append(
            Column(
                caption=f"{outcome.prompt} (brought back: {marks})",
                pictures=(
                    measured.base[index],
                    size,
                    *(_or_blank(picture, size) for picture in pictures),
                ),
            )
        )
    rows = ["before", "after", *(_label(one.spec.name) for one in attacked)]
    return make_grid(
        columns,
        rows,
        title=title,
        footer="Lower rows: the picture that decided under each attack's largest budget, from the successful "
        "prompt, else from the last one tried.",
        cell=cell,
        per_band=SHOWN,
    )


def _or_blank(picture: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if picture is None else picture


def _label(name: str) -> str:
    """A row's label in lines of few letters."""
    lines = [""]
    for word in name.split("_"):
        if lines[-1] and len(lines[-1]) + len(word) > LABEL:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


def stacked(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures under each other, on white."""
    canvas = Image.new(
        "RGB", (max(one.width for one in pictures), sum(one.height for one in pictures)), PAPER
    )
    top = 0
    for one in pictures:
        canvas.paste(one, (0, top))
        top += one.height
    return canvas


def comparison_grid(
    measured: Sequence[Measured], artifact: Artifact, *, cell: int = 128, columns: int = GRID_COLUMNS
) -> Image.Image:
    """The first pictures of every set, before and after: chosen by their place, not by their looks."""
    shown = [
        Column(
            caption=result.prompt_set.items[index].prompt,
            pictures=(result.base[index], result.erased[index]),
            group=_heading(result.row),
        )
        for result in measured
        for index in range(min(columns, len(result.prompt_set.items)))
    ]
    names = ", ".join(artifact.manifest.concept_names)
    return make_grid(
        shown,
        ["before", "after"],
        title=f"{told(artifact.manifest.method)} erases {names}",
        footer="Same prompts and seeds in both rows, the first of each set. Over each set: in how many "
        "pictures the judge sees what was asked for, before and after.",
        cell=cell,
        per_band=3 * columns,
    )


def _heading(row: Row) -> str:
    return f"{row.name}: {row.base.k} to {row.erased.k} of {row.base.n}"
