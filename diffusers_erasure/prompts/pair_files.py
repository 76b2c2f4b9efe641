"""Pairs of prompts that the user wrote, as a csv file in UTF-8.

    malicious   a prompt that means what is erased
    safe        the same with something harmless in its place; may be empty
    word        the word or words in `malicious` that mean it; may be missing or empty
    safe_word   what stands in their place in `safe`; likewise, and only beside a word

The words are needed where tokens of the concept are mapped, but not where only end tokens are. Nothing is
skipped but blank lines: a row that cannot be used stops the reading, and the error names file and line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from diffusers_erasure.errors import ConfigError

from .csv_file import Fault, read_csv
from .pairs import PromptPair
from .user_files import read_text

REQUIRED = ("malicious", "safe")
OPTIONAL = ("word", "safe_word")


def read_pairs(path: Path) -> tuple[PromptPair, ...]:
    """Read every pair of a file, in its order.

    Args:
        path: A csv file with the columns of the module's docstring; others are not read.

    Raises:
        ConfigError: The file is missing, not UTF-8, not csv, or empty, or a row cannot be used.
    """
    file = path.expanduser()
    fault = partial(_fault, file)
    table = read_csv(read_text(file, f"the file of pairs {file}"), fault)
    missing = [name for name in REQUIRED if name not in table.columns]
    if table.columns and missing:
        raise fault(
            table.line,
            f"has the columns {', '.join(map(repr, table.columns))}",
            f"{' and '.join(map(repr, REQUIRED))}, and perhaps {' and '.join(map(repr, OPTIONAL))}",
        )
    pairs = tuple(_pair(values, line, fault) for line, values in table.records(fault))
    if not pairs:
        raise ConfigError(
            f"the file of pairs {file} holds no pair; expected a heading {','.join((*REQUIRED, *OPTIONAL))} "
            f"and at least one row; write some, or give another file"
        )
    return pairs


def _pair(values: Mapping[str, str], line: int, fault: Fault) -> PromptPair:
    source, target, word, safe_word = (
        " ".join(values.get(name, "").split()) for name in (*REQUIRED, *OPTIONAL)
    )
    if not source:
        raise fault(line, "has no malicious prompt", "text in the column 'malicious'")
    if source.casefold() == target.casefold():
        raise fault(line, f"has {source!r} on both sides", "a safe prompt that differs")
    if safe_word and not word:
        raise fault(line, f"has the safe word {safe_word!r} but no word", "both, or the word alone")
    for wanted, prompt in ((word, source), (safe_word, target)):
        if wanted and not re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", prompt, re.IGNORECASE):
            raise fault(line, f"has the word {wanted!r} for {prompt!r}", "one that stands there as a word")
    return PromptPair(source, target, word, safe_word)


def _fault(file: Path, line: int, found: str, expected: str) -> ConfigError:
    return ConfigError(
        f"line {line} of the file of pairs {file} {found}; expected {expected}; correct that line"
    )
