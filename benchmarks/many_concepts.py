"""Many concepts in one closed-form run: what an erasure costs, erases and keeps as their number grows.

    python -m benchmarks.many_concepts --work_dir runs/many_concepts
    python -m benchmarks.many_concepts --work_dir runs/many_concepts --report

On the embedded pipeline, TRCE's first stage erases 1, 2, 5, ... 50 concepts at once, one theme, and all seven
themes. The concepts come in one order in which each set holds the smaller ones: spread over the groups by
their sizes, and one concept of each group last of all, so that every concept keeps a neighbour to map to.

Each cell runs what a user would type, `train trce --stages 1` and `evaluate`. What is erased and what is kept
differs from cell to cell, so the prompt sets do, too: with 50 of 66 concepts erased, retention is measured on
the 16 that are left, and on styles. What is finished is kept, and a run that was stopped goes on; pictures of
the base are shared. `report.json`, `report.md` and `many-concepts.png` say the figures of the finished cells,
`--report` without running any.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import resource
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from rich.table import Table

from diffusers_erasure.cli import console
from diffusers_erasure.durable import write_whole
from diffusers_erasure.embedded.vocabulary import CONCEPTS, THEMES
from diffusers_erasure.errors import ConfigError
from diffusers_erasure.evaluation.curves import DOTS_PER_INCH, GREY, PALETTE
from diffusers_erasure.evaluation.prompt_sets import FIRST_TEST_SEED, Purpose
from diffusers_erasure.evaluation.proportion import Proportion
from diffusers_erasure.evaluation.report import EvaluationReport, read_report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COUNTS = (1, 2, 5, 10, 20, 35, 50)
ERASED = ("own name", "synonyms", "implicit")
COLUMNS = (
    "erased", "concepts", *ERASED, "retained", "neighbours", "other concepts", "styles", "verdict", "pairs",
    "seconds", "CPU s", "bytes", "missing change", "drift",
)  # fmt: skip
NUMBERS = ("pairs", "seconds", "missing change", "drift of retained")
"""What is read of a training's summary."""


def nested_order() -> tuple[str, ...]:
    """Every concept of the vocabulary: spread over the groups, the last one of each group at the end."""
    sizes = Counter(entry.group for entry in CONCEPTS.values())
    seen: Counter[str] = Counter()
    places = {}
    for entry in CONCEPTS.values():
        size, index = sizes[entry.group], seen[entry.group]
        places[entry.name] = (index == size - 1, (index + 0.5) / size)
        seen[entry.group] += 1
    return tuple(sorted(places, key=places.__getitem__))


@dataclass(frozen=True)
class Cell:
    """One erasure, in a folder of its own.

    Attributes:
        label: How the table calls it.
        names: What `--concept` is given: concepts or themes.
        work_dir: Holds all cells.
        n: Pictures of each prompt set.
        first_seed: Of the pictures.
    """

    label: str
    names: tuple[str, ...]
    work_dir: Path
    n: int
    first_seed: int

    @property
    def concepts(self) -> int:
        """How many concepts are erased, members of themes counted."""
        return sum(len(THEMES.get(name, (name,))) for name in self.names)

    @property
    def is_theme(self) -> bool:
        """Whether whole groups are erased, so that no neighbour of theirs is left."""
        return self.names[0] in THEMES

    @property
    def folder(self) -> Path:
        """Where everything of it lies."""
        return self.work_dir / self.label.replace(" ", "-")

    @property
    def artifact(self) -> Path:
        """The erasure."""
        return self.folder / "artifact"

    @property
    def evaluation(self) -> Path:
        """Its evaluation with this n and these seeds."""
        return self.folder / f"evaluation-{self.first_seed}-{self.n}" / "evaluation.json"

    @property
    def finished(self) -> bool:
        """Whether everything is there."""
        return self.costs_file.exists() and self.evaluation.exists()

    @property
    def costs_file(self) -> Path:
        """What the training cost."""
        return self.folder / "costs.json"

    def steps(self) -> Iterator[tuple[str, Path, list[str]]]:
        """Name, file that tells that it is finished, and command of each step."""
        named = [word for name in self.names for word in ("--concept", name)]
        training = ["train", "trce", "--stages", "1", *named, "--output_dir", str(self.artifact)]
        yield "train", self.costs_file, [*training, "--overwrite"]
        drawn = ["--n", str(self.n), "--first_seed", str(self.first_seed)]
        kept = ["--cache_dir", str(self.work_dir / "pictures"), "--output_dir", str(self.evaluation.parent)]
        yield "evaluate", self.evaluation, ["evaluate", str(self.artifact), *drawn, *kept]


def cells(counts: Sequence[int], work_dir: Path, n: int, first_seed: int) -> list[Cell]:
    """Every cell: growing numbers of concepts, then a theme and all themes.

    Raises:
        ConfigError: There are not so many concepts.
    """
    order = nested_order()
    wrong = [count for count in counts if not 1 <= count <= len(order)]
    if wrong:
        raise ConfigError(
            f"{wrong[0]} concepts cannot be erased; expected 1 to {len(order)}; give other --counts"
        )
    named = [(f"{count} concepts" if count > 1 else "1 concept", order[:count]) for count in counts]
    named += [("weapons", ("weapons",)), ("seven themes", tuple(THEMES))]
    return [Cell(label, names, work_dir, n, first_seed) for label, names in named]


def run_cell(cell: Cell) -> None:
    """Run what is missing of a cell.

    Raises:
        RuntimeError: A command failed; its log is named.
    """
    for name, done, command in cell.steps():
        if done.exists():
            continue
        console.say(f"{cell.label}: {name}")
        log, seconds = cell.folder / f"{name}.log", _run(command, cell.folder / f"{name}.log")
        if name == "train" and (cell.artifact / "erasure_config.json").exists():
            costs = {**summary_numbers(log.read_text()), "CPU s": seconds, "bytes": _bytes(cell.artifact)}
            write_whole(done, (json.dumps(costs, indent=1) + "\n").encode())
        if not done.exists():
            raise RuntimeError(
                f"{name} of {cell.folder} ended without {done.name}; expected it; see {log}, mend it and "
                "start again"
            )


def summary_numbers(log: str) -> dict[str, float]:
    """The figures that `train` prints at its end, by name.

    Raises:
        ValueError: One of them is not there.
    """
    found: dict[str, float] = {}
    for name in NUMBERS:
        match = re.search(rf"^\s*{name}\s+([-+.\de]+)(?:\s*| (%) of .*)$", log, re.MULTILINE)
        if match is None:
            raise ValueError(f"a training's summary has no line {name!r}; expected one; read its log")
        found[name] = float(match[1]) / 100 if match[2] else float(match[1])
    return found


def _run(command: Sequence[str], log: Path) -> float:
    """Run one command with a log of its own; its CPU seconds."""
    log.parent.mkdir(parents=True, exist_ok=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with log.open("wb") as file:
        full = [sys.executable, "-m", "diffusers_erasure", *command]
        subprocess.run(full, stdout=file, stderr=subprocess.STDOUT, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 2)


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@dataclass(frozen=True)
class Finding:
    """What a finished cell says."""

    cell: Cell
    costs: Mapping[str, float]
    evaluation: EvaluationReport

    @classmethod
    def of(cls, cell: Cell) -> Finding:
        """Read it."""
        return cls(cell, json.loads(cell.costs_file.read_text()), read_report(cell.evaluation))

    def rate(self, name: str) -> Proportion | None:
        """A row after the erasure; None where the set has no prompts."""
        row = self.evaluation.row(name)
        return None if row is None else row.erased

    @property
    def retained(self) -> tuple[Proportion, Proportion]:
        """What should stay, before and after: every retained row together."""
        rows = [row for row in self.evaluation.rows if row.purpose is not Purpose.ERASED]
        return Proportion.pooled([row.base for row in rows]), Proportion.pooled([row.erased for row in rows])

    def line(self) -> list[str]:
        """The row of the table."""
        costs = self.costs
        before, after = self.retained
        return [
            self.cell.label,
            str(self.cell.concepts),
            *(self._before_after(name) for name in ERASED),
            f"{before.k} → {after}",
            *(self._before_after(name) for name in ("neighbours", "other concepts", "styles")),
            self.evaluation.verdict,
            f"{costs['pairs']:.0f}",
            f"{costs['seconds']:.1f}",
            f"{costs['CPU s']:.1f}",
            f"{costs['bytes']:.0f}",
            f"{costs['missing change']:.3f}",
            f"{costs['drift of retained']:.3f}",
        ]

    def _before_after(self, name: str) -> str:
        row = self.evaluation.row(name)
        return "–" if row is None else f"{row.base.k} → {row.erased.k}/{row.erased.n}"


def report(every: Sequence[Cell], folder: Path) -> tuple[Table, tuple[Path, ...], int]:
    """Write what the finished cells say.

    Args:
        every: All cells.
        folder: Gets report.json, report.md and, as soon as a cell is finished, many-concepts.png.

    Returns:
        A table for a terminal, the files, and how many cells are finished.
    """
    found = [Finding.of(cell) for cell in every if cell.finished]
    lines = [one.line() for one in found]
    table = Table(*COLUMNS, box=None)
    for line in lines:
        table.add_row(*line)
    rows = [COLUMNS, ["---"] * len(COLUMNS), *lines]
    records = [{**dict(zip(COLUMNS, one.line(), strict=True)), "names": one.cell.names} for one in found]
    files = {
        "report.md": "".join(f"| {' | '.join(row)} |\n" for row in rows).encode(),
        "report.json": (json.dumps(records, indent=1, ensure_ascii=False) + "\n").encode(),
    }
    if found:
        files["many-concepts.png"] = plot(found)
    for name, content in files.items():
        write_whole(folder / name, content)
    return table, tuple(folder / name for name in files), len(found)


def plot(found: Sequence[Finding]) -> bytes:
    """What is drawn, and what it costs, against the number of concepts, as a PNG file."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    series: tuple[tuple[str, Callable[[Finding], Proportion | None]], ...] = (
        *((name, lambda one, name=name: one.rate(name)) for name in ERASED),
        ("retained", lambda one: one.retained[1]),
    )
    for index, (name, rate) in enumerate(series):
        _draw_rates(left, found, name, rate, PALETTE[index], 1.03 ** (index - 1.5))
    left.set_ylabel("pictures that show what was asked for (%)")
    left.set_ylim(-3, 103)
    for index, (key, name) in enumerate(
        (("seconds", "wall seconds of the erasure"), ("CPU s", "CPU seconds of the whole command"))
    ):
        _draw_costs(right, found, key, name, PALETTE[index])
    right.set_ylabel("seconds")
    right.set_ylim(0)
    for axes in (left, right):
        _finish(axes, sorted({one.cell.concepts for one in found}))
    cell = found[0].cell
    title = f"TRCE's first stage, one run for all concepts; n = {cell.n} a set, 95 % intervals"
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=DOTS_PER_INCH, metadata={"Software": ""})
    return content.getvalue()


def _draw_rates(
    axes: Axes,
    found: Sequence[Finding],
    name: str,
    rate: Callable[[Finding], Proportion | None],
    colour: str,
    shift: float,
) -> None:
    """One series: filled and joined for growing sets, hollow for themes; shifted, so that bars stay apart."""
    for themed in (False, True):
        points = [(one.cell.concepts * shift, rate(one)) for one in found if one.cell.is_theme is themed]
        known = [(x, share) for x, share in points if share is not None]
        look: dict[str, Any] = (
            {"linestyle": "", "markerfacecolor": "white", "marker": "s"}
            if themed
            else {"linestyle": "-", "marker": "o", "label": name}
        )
        axes.errorbar(
            [x for x, _ in known],
            [100 * share.rate for _, share in known],
            yerr=[
                [100 * (share.rate - share.low) for _, share in known],
                [100 * (share.high - share.rate) for _, share in known],
            ],
            color=colour, markersize=5, capsize=2.5, linewidth=1.4, **look,
        )  # fmt: skip


def _draw_costs(axes: Axes, found: Sequence[Finding], key: str, name: str, colour: str) -> None:
    for themed in (False, True):
        here = [one for one in found if one.cell.is_theme is themed]
        look: dict[str, Any] = (
            {"linestyle": "", "markerfacecolor": "white", "marker": "s"}
            if themed
            else {"linestyle": "-", "marker": "o", "label": name}
        )
        axes.plot(
            [one.cell.concepts for one in here], [one.costs[key] for one in here], color=colour,
            markersize=5, linewidth=1.4, **look,
        )  # fmt: skip


def _finish(axes: Axes, counts: Sequence[int]) -> None:
    axes.plot([], [], linestyle="", marker="s", color=GREY, markerfacecolor="white", label="themes")
    axes.set_xscale("log")
    shown = [count for count in counts if count != 9]  # too near to 10
    axes.set_xticks(shown, [str(count) for count in shown])
    axes.minorticks_off()
    axes.set_xlabel("concepts erased in one run")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--counts", nargs="+", type=int, default=list(COUNTS), help="concepts of each set")
    parser.add_argument("--n", type=int, default=100, help="pictures of each prompt set")
    parser.add_argument("--first_seed", type=int, default=FIRST_TEST_SEED, help="of the pictures")
    parser.add_argument("--work_dir", type=Path, default=Path("runs/many_concepts"))
    parser.add_argument("--report", action="store_true", help="only write the report of what is finished")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the cells, then report what is finished."""
    given = _arguments(argv)
    every = cells(given.counts, given.work_dir, given.n, given.first_seed)
    if not given.report:
        for cell in every:
            run_cell(cell)
    table, written, finished = report(every, given.work_dir)
    console.out().print(table)
    for file in written:
        console.say(f"wrote {file}")
    console.note(f"{finished} of {len(every)} cells are finished")
    return 0 if finished == len(every) else 1


if __name__ == "__main__":
    sys.exit(main())
