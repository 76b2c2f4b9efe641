"""The same prompts and seeds under several erasures, a row for each, so that they can be compared by looking.

An evaluation measures one erasure. Its pictures of base and erased pipeline are the first two rows here; the
other erasures draw just the columns that are shown, each of them verified before and after.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from PIL import Image
from torch import Tensor

from diffusers_erasure.artifacts.apply import load_erasure
from diffusers_erasure.artifacts.artifact import Artifact
from diffusers_erasure.pipelines.verifying import verify_erasure

from .attack_grid import GRID_COLUMNS
from .generate import Sampling, draw
from .grid import Column, make_grid
from .measure import Measured
from .subject import sibling

CELL = 96


def side_by_side(
    measured: Sequence[Measured],
    label: str,
    rivals: Mapping[str, Artifact],
    base: Any,
    *,
    sampling: Sampling,
    title: str,
    progress: Callable[[str, int, int], None] | None = None,
) -> Image.Image:
    """A grid whose rows are the base, the erasure that was measured, and its rivals.

    Args:
        measured: The prompt sets of an evaluation, with their pictures.
        label: Name of the erasure that was measured.
        rivals: Other erasures of the same base, by the name that their row gets.
        base: The base pipeline; not changed.
        sampling: That of the evaluation.
        title: What stands over the grid.
        progress: Told each rival's name, the pictures that are there, and those that it needs.

    Raises:
        ErasureNotActiveError: A rival is not verified, before or after drawing.
    """
    shown = [(one, index) for one in measured for index in range(min(GRID_COLUMNS, len(one.base)))]
    items = [one.prompt_set.items[index] for one, index in shown]
    rows = [
        [one.base[index] for one, index in shown],
        [one.erased[index] for one, index in shown],
        *_drawn(rivals, base, [(item.prompt, item.seed) for item in items], sampling, progress),
    ]
    columns = [
        Column(caption=item.prompt, pictures=tuple(row[place] for row in rows), group=one.row.name)
        for place, (item, (one, _)) in enumerate(zip(items, shown, strict=True))
    ]
    return make_grid(
        columns,
        ["before", label, *rivals],
        title=title,
        footer="Same prompts and seeds in every row, the first of each set. Own name, synonyms and implicit "
        "prompts are to lose the concept; the others are to stay.",
        cell=CELL,
        per_band=len(columns),
    )


def _drawn(
    rivals: Mapping[str, Artifact],
    base: Any,
    items: Sequence[tuple[str, int]],
    sampling: Sampling,
    progress: Callable[[str, int, int], None] | None,
) -> Iterator[list[Tensor]]:
    """The pictures of each rival, one for each prompt and seed."""
    prompts, seeds = zip(*items, strict=True)
    for name, artifact in rivals.items():
        pipe = sibling(base)
        load_erasure(pipe, artifact)
        verify_erasure(pipe, artifact).raise_unless_verified()
        tell = (lambda done, total, name=name: progress(name, done, total)) if progress else None
        found = draw(pipe, prompts, seeds, sampling=sampling, progress=tell).whole()
        verify_erasure(pipe, artifact).raise_unless_verified()
        yield list(found)
