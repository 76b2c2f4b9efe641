"""What commands show: tables, progress, notices, in one look.

Results go to stdout, so that they can be piped; progress, notices and everything a person only watches go to
stderr. Both follow the terminal: no colour and no moving bar where there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from .progress_lines import ProgressLines

ProgressCallback = Callable[[int, int, str], None]
"""How library code reports progress: `(done, total, what)`, as often as it likes."""


class CommandConsole(Console):
    """A console that leaves a reader who went away (`| head`) to the command line, as it does elsewhere."""

    def on_broken_pipe(self) -> None:
        """Go on with the error; rich would end the process with code 1."""
        raise BrokenPipeError


def results() -> Console:
    """Console for tables and panels on stdout, as wide as the terminal."""
    return CommandConsole(highlight=False)


def out() -> Console:
    """Console for results (stdout). Made anew each time, so that a redirected stdout is respected."""
    return CommandConsole(highlight=False, soft_wrap=True)


def err() -> Console:
    """Console for what a person watches (stderr)."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def say(text: str = "") -> None:
    """Print a line of the result. Square brackets are printed as they are, not read as markup."""
    out().print(text, markup=False)


def note(text: str) -> None:
    """Print a line about the work, not the result."""
    err().print(text, markup=False)


def warn(text: str) -> None:
    """Print a warning: something that the reader of the result has to know."""
    err().print(f"warning: {text}", markup=False, style="yellow")


def show_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str = "", numbers: Sequence[str] = ()
) -> None:
    """Print a table as part of the result.

    Args:
        columns: Heads of the columns.
        rows: One sequence a row, as long as `columns`; cells are printed with `str`.
        title: A line above the table.
        numbers: The columns that are aligned to the right.
    """
    table = Table(title=title or None, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    results().print(table)


def show_facts(facts: Mapping[str, object], *, title: str = "") -> None:
    """Print names and values, one pair a line, values aligned."""
    table = Table(title=title or None, title_justify="left", title_style="bold", box=None, show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name, Text(str(value)))
    results().print(table)


@contextmanager
def progress(description: str = "") -> Iterator[ProgressCallback]:
    """Progress bar on stderr, fed by the callback that it yields; gone when the work is done.

    Where stderr is no terminal, a line every half minute takes its place.

    Example:
        >>> with progress("drawing") as report:
        ...     report(1, 2, "church")
        ...     report(2, 2, "dog")
    """
    if not err().is_terminal:
        lines = ProgressLines(note)

        def write(done: int, total: int, what: str = "") -> None:
            lines.report(description, done, total, what)

        yield write
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err(), transient=True) as bar:
        task = bar.add_task(description, total=None)

        def report(done: int, total: int, what: str = "") -> None:
            text = f"{description}: {what}" if description and what else description or what
            bar.update(task, completed=done, total=total, description=text)

        yield report
