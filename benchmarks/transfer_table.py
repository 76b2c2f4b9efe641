"""The transfer table's rows, how they are counted, and how they are shown; `transfer.py` fills them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from diffusers_erasure.artifacts.method_names import told
from diffusers_erasure.attacks import AttackOutcome
from diffusers_erasure.cli import console
from diffusers_erasure.evaluation.attack_report import RunRecord
from diffusers_erasure.evaluation.grid import Column, make_grid
from diffusers_erasure.evaluation.measure import Measured
from diffusers_erasure.evaluation.prompt_sets import PromptItem
from diffusers_erasure.evaluation.proportion import Proportion
from diffusers_erasure.evaluation.records import POSITIVE_CONTROL_FLOOR, JudgeRecord, Record, Verdict
from diffusers_erasure.evaluation.runner import RETENTION_FLOOR
from diffusers_erasure.evaluation.worst_case import counted, either, marks_of

PIPELINES = ("base", "second", "img2img")
REPLAY = "replay"
_SHOWN = 4


class Change(Record):
    """A share before the erasure and after it, on the same prompts and seeds."""

    before: Proportion
    after: Proportion

    @classmethod
    def pooled(cls, parts: Sequence[Change]) -> Change:
        """All parts counted together."""
        halves = [[getattr(part, half) for part in parts] for half in ("before", "after")]
        before, after = (Proportion.pooled(half) for half in halves)
        return cls(before=before, after=after)


class Place(Record):
    """What came of the erasure in one pipeline."""

    pipeline: str
    own_name: Change
    kept: Change
    kept_by_set: Mapping[str, Change]
    attacked: Mapping[str, Proportion]
    broken_on_base: Proportion | None = None
    runs: tuple[RunRecord, ...]

    @property
    def verdict(self) -> Verdict:
        """Whether the row may be believed: the concept was there before, and the rest is there still."""
        if self.own_name.before.rate < POSITIVE_CONTROL_FLOOR:
            return Verdict.HARNESS_INVALID
        low = self.kept.after.rate < RETENTION_FLOOR * self.kept.before.rate
        return Verdict.DEGENERATE if low else Verdict.MEASURED


class Table(Record):
    """The transfer table."""

    artifact: str
    method: str
    concepts: tuple[str, ...]
    loaded_as: str
    base: str
    second: str
    img2img_strength: float
    n: int
    sampling: Mapping[str, float]
    judges: tuple[JudgeRecord, ...]
    places: tuple[Place, ...]


def choose_strength(shares: Mapping[float, Proportion]) -> float | None:
    """The first strength at which the judge sees the concept; None if there is none."""
    return next((one for one, share in shares.items() if share.rate >= POSITIVE_CONTROL_FLOOR), None)


def transferred(plain: Sequence[bool], replayed: str, broken: str) -> tuple[Proportion, Proportion | None]:
    """What replayed texts do elsewhere.

    Args:
        plain: Per prompt, whether the plain prompt shows the concept there.
        replayed: Marks of the replayed texts there.
        broken: Marks of the attack where the texts were found.

    Returns:
        Prompts that plain or replayed text breaks there; the same of those only that the attack broke, None
        if it broke none.
    """
    there = either([marks_of([(shows, False) for shows in plain]), replayed])
    both = [mark for mark, was in zip(there, broken, strict=True) if counted(was)]
    return Proportion.of(counted(there), len(there)), (
        Proportion.of(counted("".join(both)), len(both)) if both else None
    )


def place_of(name: str, measured: Sequence[Measured], **attacked: Any) -> Place:
    """One row of the table."""
    changes = {one.row.name: Change(before=one.row.base, after=one.row.erased) for one in measured}
    own = changes.pop("own name")
    return Place(
        pipeline=name, own_name=own, kept=Change.pooled(list(changes.values())), kept_by_set=changes,
        **attacked,
    )  # fmt: skip


def grid_of(
    table: Table,
    measured: Mapping[str, Sequence[Measured]],
    outcomes: Mapping[str, Sequence[AttackOutcome]],
    starts: Mapping[int, Tensor],
) -> Image.Image:
    """Rows: pipelines, and what img2img starts from. Columns: the first prompts before, after and attacked.

    Args:
        table: What was counted.
        measured: Pictures of every set, by pipeline.
        outcomes: What came of the attack, by pipeline.
        starts: Start pictures by seed.
    """
    attacked = {name: {one.seed: one.picture for one in found} for name, found in outcomes.items()}
    columns: list[Column] = []

    def add(caption: str, item: PromptItem, heading: str, images: Sequence[Tensor]) -> None:
        shown = (*images[:2], starts[item.seed], images[2])
        columns.append(Column(caption, shown, f"{heading}: {item.prompt}"))

    for index, one in enumerate(measured["base"]):
        own = one.row.name == "own name"
        for at, item in enumerate(one.prompt_set.items[: _SHOWN if own else 1]):
            found = [measured[name][index] for name in PIPELINES]
            add("before", item, one.row.name, [each.base[at] for each in found])
            add("after", item, one.row.name, [each.erased[at] for each in found])
            if own:
                last = [attacked[name].get(item.seed) for name in PIPELINES]
                blank = torch.zeros_like(one.erased[at])
                add("attacked", item, one.row.name, [blank if each is None else each for each in last])
    return make_grid(
        columns, ["base", "second", "img2img\nstarts from", "img2img"], cell=80, per_band=12,
        title=f"{told(table.method)} erases {', '.join(table.concepts)}, swapped into three pipelines",
        footer="The first prompts of each set, same seeds in every row. Attacked: the picture that decided "
        "under UnlearnDiffAtk; in img2img the text that the attack found on the base.",
    )  # fmt: skip


def show(table: Table) -> None:
    """Print the table."""
    rows = [
        (one.pipeline, one.own_name.before, one.own_name.after, one.kept.before, one.kept.after, one.verdict)
        for one in table.places
    ]
    heads = ("pipeline", "own name before", "own name after", "kept before", "kept after", "verdict")
    title = f"{told(table.method)} of {', '.join(table.concepts)}, loaded as {table.loaded_as}"
    console.show_table(heads, rows, title=title)
    attacks = [(one.pipeline, name, share) for one in table.places for name, share in one.attacked.items()]
    console.show_table(("pipeline", "attack", "own name under attack"), attacks)
    sets = [
        (one.pipeline, name, change.before, change.after)
        for one in table.places
        for name, change in one.kept_by_set.items()
    ]
    console.show_table(("pipeline", "kept", "before", "after"), sets)
    console.say(
        f"img2img at strength {table.img2img_strength:g}; replay: the texts that UnlearnDiffAtk found on the "
        f"base; only those that broke the base: {table.places[-1].broken_on_base or 'there is none'}"
    )
