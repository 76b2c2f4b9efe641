"""Text that stays text: values from manifests and reports, made ready to stand in Markdown.

A concept may be called anything, `a | b` or `---` among others. Every such value is one line without control
characters, and the characters that Markdown would read are escaped; what is a name rather than prose (keys,
ids, hashes) becomes a code span. A table is rows of cells that were made so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

LONGEST = 300
"""Characters of a setting's value that a table shows."""
_SPECIAL = re.compile(r"([\\`*\[\]<>|#~$&!])")
_EDGE_UNDERSCORE = re.compile(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_LIST_NUMBER = re.compile(r"^(\d+)(?=[.)]\s)")
_INVISIBLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]+")


def one_line(value: object) -> str:
    """The value as one line: no line breaks, no control characters, single blanks."""
    return " ".join(_INVISIBLE.sub(" ", str(value)).split())


def plain(value: object) -> str:
    """The value as prose, with everything escaped that Markdown would read."""
    text = _EDGE_UNDERSCORE.sub(r"\\_", _SPECIAL.sub(r"\\\1", one_line(value)))
    text = _LIST_NUMBER.sub(r"\1\\", text).replace("://", r"\://")
    return f"\\{text}" if text.startswith(("-", "+", "=", ":")) else text


def code(value: object) -> str:
    """The value as a code span; an empty one is said in words."""
    text = one_line(value)
    if not text:
        return "(empty)"
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    padded = f" {text} " if text.startswith("`") or text.endswith("`") else text
    return f"{fence}{padded}{fence}".replace("|", r"\|")


def as_json(value: object) -> str:
    """A setting's value as a code span, cut where it is too long for a table."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    short = one_line(text)
    if len(short) > LONGEST:
        return f"{code(short[:LONGEST])} and {len(short) - LONGEST} more characters"
    return code(short)


def listed(values: Iterable[object]) -> str:
    """Values as prose with commas between them."""
    return ", ".join(plain(value) for value in values)


def slug(value: object) -> str:
    """The value as a tag of the Hub: lower case letters, digits and hyphens; empty if nothing is left."""
    return re.sub(r"[^a-z0-9]+", "-", one_line(value).lower()).strip("-")[:60].strip("-")


def short_hash(value: str) -> str:
    """The first 16 characters of a digest, which is enough to compare by eye."""
    return code(value[:16])


@dataclass(frozen=True)
class Table:
    """A table of Markdown; its cells are Markdown already.

    Attributes:
        columns: Heads of the columns.
        rows: One sequence of cells per row, each as long as `columns`.
        numbers: The columns that are aligned to the right.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: frozenset[str] = frozenset()

    @classmethod
    def of(
        cls, columns: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Sequence[str] = ()
    ) -> Table:
        """A table of these columns and rows."""
        return cls(tuple(columns), tuple(tuple(row) for row in rows), frozenset(numbers))

    def __str__(self) -> str:
        """The table as Markdown, without a line break at its end."""
        rule = ("---:" if column in self.numbers else "---" for column in self.columns)
        lines = (self.columns, tuple(rule), *self.rows)
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)
