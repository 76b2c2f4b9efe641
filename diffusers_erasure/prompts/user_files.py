"""The files that users give: text in UTF-8, whose kind the ending of the name says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from diffusers_erasure.errors import ConfigError

Row = TypeVar("Row")
Reader = Callable[[Path, str], Iterable[Row]]
"""Makes rows of a file's path, which its errors name, and its text."""


def read_by_ending(path: Path, what: str, readers: Mapping[str, Reader[Row]]) -> tuple[Row, ...]:
    """Everything in a file, by the reader for its ending.

    Args:
        path: The file.
        what: How an error speaks of it: "the prompt file mine.csv".
        readers: By ending: ".csv".

    Raises:
        ConfigError: There is no reader for it, no such file, or it is not UTF-8.
    """
    reader = readers.get(path.suffix.casefold())
    if reader is None:
        *endings, last = readers
        raise ConfigError(
            f"{what} ends in {path.suffix or 'nothing'!r}; expected {', '.join(endings)} or {last}; "
            "rename or convert it"
        )
    return tuple(reader(path, read_text(path, what)))


def read_text(path: Path, what: str) -> str:
    """The text of a file in UTF-8, with or without a byte order mark.

    Args:
        path: The file.
        what: How an error speaks of it: "the retain set mine.csv".

    Raises:
        ConfigError: There is no such file, or it is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{what} cannot be read ({error}); expected a file in UTF-8; check its path and encoding"
        ) from error
