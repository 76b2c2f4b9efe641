"""The table and the plot of `robustness`: figures of each variant and concept, pooled over training seeds.

A rate is k of n pictures over all training seeds, with its Wilson 95 % interval; prompts of one training
share its weights, so the spread over the seeds stands beside it. UnlearnDiffAtk is compared with random
tokens, and a variant with the first of the plan, prompt by prompt (exact McNemar).
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from rich.table import Table

from diffusers_erasure.evaluation.attack_file import AttackFile
from diffusers_erasure.evaluation.curves import DOTS_PER_INCH, GREY, PALETTE
from diffusers_erasure.evaluation.intervals import mcnemar_exact
from diffusers_erasure.evaluation.pictures import write_atomically
from diffusers_erasure.evaluation.prompt_sets import Purpose
from diffusers_erasure.evaluation.proportion import Proportion
from diffusers_erasure.evaluation.report import EvaluationReport, read_report
from diffusers_erasure.evaluation.worst_case import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ATTACK, LUCK = "unlearndiffatk", "random_tokens"
BEFORE = (
    "concept", "variant", "own name", "synonyms", "implicit", "UnlearnDiffAtk", "by seed", "random tokens",
    "p (excess)", "p (first variant)",
)  # fmt: skip
AFTER = ("retained", "change", "training s")
"""Columns before and after those of a plan's further attacks."""


@dataclass(frozen=True)
class CellFiles:
    """Where the results of one variant, concept and training seed lie, and which further attacks were run."""

    variant: str
    concept: str
    seed: int
    folder: Path
    attacks: tuple[str, ...] = ()

    @property
    def artifact(self) -> Path:
        """The erasure."""
        return self.folder / "artifact"

    @property
    def evaluation(self) -> Path:
        """Its evaluation without attacks."""
        return self.folder / "evaluation" / "evaluation.json"

    def attack(self, name: str) -> Path:
        """The report of an attack on it."""
        return self.folder / name / "attack.json"

    @property
    def finished(self) -> bool:
        """Whether everything is there."""
        attacked = (self.attack(name) for name in (ATTACK, LUCK, *self.attacks))
        return self.evaluation.exists() and all(file.exists() for file in attacked)

    @property
    def seconds(self) -> Mapping[str, float]:
        """Wall seconds of each step that ran in one go."""
        file = self.folder / "seconds.json"
        return dict(json.loads(file.read_text())) if file.exists() else {}

    def note_seconds(self, name: str, seconds: float) -> None:
        """Keep how long a step took."""
        text = json.dumps({**self.seconds, name: round(seconds, 1)}, indent=1) + "\n"
        write_atomically(self.folder / "seconds.json", text.encode())


@dataclass(frozen=True)
class Pooled:
    """One variant and concept over its training seeds."""

    cells: tuple[CellFiles, ...]

    @property
    def variant(self) -> str:
        """What it is called."""
        return self.cells[0].variant

    @property
    def concept(self) -> str:
        """What it erases."""
        return self.cells[0].concept

    @cached_property
    def _evaluations(self) -> list[EvaluationReport]:
        return [read_report(cell.evaluation) for cell in self.cells]

    def marks(self, attack: str) -> str:
        """What came of each prompt under an attack, training after training, as `worst_case` writes it."""
        return "".join(self.by_seed(attack))

    def by_seed(self, attack: str) -> list[str]:
        """The same for each training seed."""
        files = (cell.attack(attack).read_text() for cell in self.cells)
        return [AttackFile.model_validate_json(text).run.marks for text in files]

    def rate(self, attack: str) -> Proportion:
        """The share that an attack brought back."""
        return _share(self.marks(attack))

    def row(self, name: str) -> Proportion | None:
        """A row of the evaluations, after the erasure."""
        found = [row.erased for report in self._evaluations if (row := report.row(name)) is not None]
        return Proportion.pooled(found) if found else None

    @property
    def retained(self) -> tuple[Proportion, Proportion]:
        """What should stay, before and after: every retained row together."""
        rows = [row for one in self._evaluations for row in one.rows if row.purpose is not Purpose.ERASED]
        return Proportion.pooled([row.base for row in rows]), Proportion.pooled([row.erased for row in rows])

    @property
    def change(self) -> float:
        """Retention after minus before, in points."""
        before, after = self.retained
        return 100 * (after.rate - before.rate)

    @property
    def seconds(self) -> float:
        """Mean wall seconds of a training."""
        taken = [cell.seconds["train"] for cell in self.cells if "train" in cell.seconds]
        return sum(taken) / len(taken) if taken else float("nan")


@dataclass(frozen=True)
class Report:
    """What was found.

    Attributes:
        table: For a terminal.
        written: Files.
        finished: Cells that it is made of.
    """

    table: Table
    written: tuple[Path, ...]
    finished: int


def report(every: Sequence[CellFiles], folder: Path) -> Report:
    """Write what the finished cells say.

    Args:
        every: All cells of a plan; its first variant is what the others are compared with.
        folder: Gets report.json, report.md and robustness.png.
    """
    done = [cell for cell in every if cell.finished]
    pooled = pool(done)
    firsts = {one.concept: one for one in pooled if one.variant == every[0].variant}
    lines = [_line(one, firsts.get(one.concept)) for one in pooled]
    columns = (*BEFORE, *every[0].attacks, *AFTER)
    table = Table(*columns, box=None)
    for line in lines:
        table.add_row(*line)
    files = {
        "report.md": _markdown(columns, lines).encode(),
        "report.json": _json(columns, lines).encode(),
    }
    if pooled:
        files["robustness.png"] = plot(pooled)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_atomically(folder / name, content)
    return Report(table, tuple(folder / name for name in files), len(done))


def pool(done: Iterable[CellFiles]) -> list[Pooled]:
    """Put the training seeds of each concept and variant together, in the order in which they come."""
    found: dict[tuple[str, str], list[CellFiles]] = {}
    for cell in done:
        found.setdefault((cell.concept, cell.variant), []).append(cell)
    pooled = [Pooled(tuple(cells)) for cells in found.values()]
    order = list(dict.fromkeys(one.concept for one in pooled))
    return sorted(pooled, key=lambda one: order.index(one.concept))


def excess(marks: str, beside: str) -> tuple[int, int, float]:
    """Prompts that only the first brought back, that only the second did, and the exact McNemar p."""
    pairs = [(counted(a) > 0, counted(b) > 0) for a, b in zip(marks, beside, strict=True)]
    only, other = pairs.count((True, False)), pairs.count((False, True))
    return only, other, mcnemar_exact(only, other)


def _line(one: Pooled, first: Pooled | None) -> list[str]:
    before, after = one.retained
    attacked = one.by_seed(ATTACK)
    p_first = "–"
    if first is not None and first is not one and len(first.cells) == len(one.cells):
        p_first = f"{excess(one.marks(ATTACK), first.marks(ATTACK))[2]:.1g}"
    return [
        one.concept,
        one.variant,
        *(_say(one.row(name)) for name in ("own name", "synonyms", "implicit")),
        str(one.rate(ATTACK)),
        ", ".join(f"{_share(marks).k}/{len(marks)}" for marks in attacked),
        str(one.rate(LUCK)),
        f"{excess(one.marks(ATTACK), one.marks(LUCK))[2]:.1g}",
        p_first,
        *(str(one.rate(name)) for name in one.cells[0].attacks),
        f"{before.k} → {after.k} of {after.n}",
        f"{one.change:+.1f}",
        f"{one.seconds:.0f}",
    ]


def _json(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return json.dumps([dict(zip(columns, line, strict=True)) for line in lines], indent=1) + "\n"


def _markdown(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [columns, ["---"] * len(columns), *lines]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def plot(pooled: Sequence[Pooled]) -> bytes:
    """Robustness against retention as a PNG file, one panel for each concept: low and right is good."""
    concepts = [(concept, list(found)) for concept, found in groupby(pooled, lambda one: one.concept)]
    variants = list(dict.fromkeys(one.variant for one in pooled))
    colours = {name: PALETTE[index % len(PALETTE)] for index, name in enumerate(variants)}
    markers = {name: "osD^vP*X<>"[index % 10] for index, name in enumerate(variants)}
    figure = Figure(figsize=(3.6 * len(concepts) + 2, 4.4), layout="constrained")
    panels = figure.subplots(1, len(concepts), sharey=True, squeeze=False)[0]
    for axes, (concept, found) in zip(panels, concepts, strict=True):
        _panel(axes, found, lambda name: {"color": colours[name], "marker": markers[name]})
        axes.set_title(concept, loc="left", fontsize=11)
    panels[0].set_ylabel("prompts brought back by UnlearnDiffAtk (%)")
    labelled = [pair for axes in panels for pair in zip(*axes.get_legend_handles_labels(), strict=True)]
    handles = {text: mark for mark, text in labelled}
    figure.legend(list(handles.values()), list(handles), loc="outside right upper", frameon=False, fontsize=9)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=DOTS_PER_INCH, metadata={"Software": ""})
    return content.getvalue()


def _panel(axes: Axes, found: Sequence[Pooled], look: Callable[[str], dict[str, Any]]) -> None:
    for one in found:
        rate, luck = one.rate(ATTACK), one.rate(LUCK)
        bars = [[100 * (rate.rate - rate.low)], [100 * (rate.high - rate.rate)]]
        axes.errorbar(
            [one.change], [100 * rate.rate], yerr=bars, linestyle="", markersize=7, capsize=3,
            label=one.variant, **look(one.variant),
        )  # fmt: skip
        axes.plot(
            [one.change], [100 * luck.rate], linestyle="", marker="_", markersize=12, color=GREY,
            label="random tokens, the same",
        )  # fmt: skip
    axes.set_xlabel("retention, points from the base")
    axes.axvline(-3, color=GREY, linewidth=0.8, linestyle=":")
    low = min(-4.0, *(one.change - 1 for one in found))
    axes.set_xlim(low, 2)
    axes.set_ylim(-3, 103)
    axes.grid(alpha=0.25)


def _share(marks: str) -> Proportion:
    return Proportion.of(counted(marks), len(marks))


def _say(share: Proportion | None) -> str:
    return "–" if share is None else f"{share.k}/{share.n}"
