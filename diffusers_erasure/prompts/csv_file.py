"""The csv files that users give: read strictly, with the line of whatever is wrong.

What a column means is the caller's business, and so is the wording of its errors: it gives a function that
makes one from a line, what was found there and what was expected. Only blank lines are skipped.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from diffusers_erasure.errors import ConfigError

Fault = Callable[[int, str, str], ConfigError]
"""Makes an error of a line, what it has ("has 1 cells") and what was expected."""


@dataclass(frozen=True)
class CsvTable:
    """A heading and the rows under it.

    Attributes:
        line: Line of the heading; the first is 1.
        columns: Names in the heading, without blanks around them.
        rows: Line on which each row begins, and its cells.
    """

    line: int
    columns: tuple[str, ...]
    rows: tuple[tuple[int, tuple[str, ...]], ...]

    def records(self, fault: Fault) -> Iterator[tuple[int, dict[str, str]]]:
        """Line and cells by column of each row, all of which must have every cell."""
        for line, cells in self.rows:
            if len(cells) != len(self.columns):
                raise fault(
                    line, f"has {len(cells)} cells", f"{len(self.columns)} ({', '.join(self.columns)})"
                )
            yield line, dict(zip(self.columns, cells, strict=True))


def read_csv(text: str, fault: Fault) -> CsvTable:
    """Read the text of a csv file; one without any line has no columns.

    Args:
        text: What is in the file.
        fault: Makes the error if the text is not csv.
    """
    found = tuple(_rows(text, fault))
    if not found:
        return CsvTable(1, (), ())
    (line, heading), *rows = found
    return CsvTable(line, tuple(cell.strip() for cell in heading), tuple(rows))


def _rows(text: str, fault: Fault) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Every row that is not blank, with the line on which it begins."""
    # Line ends stay as they are, so that a cell may hold one.
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    line = 1
    try:
        for cells in lines:
            if any(cell.strip() for cell in cells):
                yield line, tuple(cells)
            line = lines.line_num + 1
    except csv.Error as error:
        raise fault(line, f"is not csv ({error})", "cells, quoted where they hold a comma") from error
