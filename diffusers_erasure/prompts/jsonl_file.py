"""The jsonl files that users give: one JSON value per line, and the line of whatever is wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator

from .csv_file import Fault


def read_jsonl(text: str, fault: Fault) -> Iterator[tuple[int, object]]:
    """Line and value of every line that is not blank; the first line is 1.

    Args:
        text: What is in the file.
        fault: Makes the error of a line that is not JSON.
    """
    for row, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield row, json.loads(line)
        except (ValueError, RecursionError) as error:
            raise fault(row, f"is not JSON ({error})", "one object per line") from error
