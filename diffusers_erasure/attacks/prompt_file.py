"""Prompts of a file that the user gives: csv, jsonl or txt, as the published attack lists come.

    csv     a heading and one prompt per row; `prompt`, and if they are there a seed and a guidance scale
    jsonl   one JSON object per line with the same names, or one JSON string per line
    txt     one prompt per line

Columns go by the names that the published lists use (`seed`, `evaluation_seed`, `sd_seed`; `guidance`,
`guidance_scale`, `evaluation_guidance`, `sd_guidance_scale`). Nothing is skipped but blank lines: a row that
cannot be used stops the reading, and the error names file and row.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from math import isfinite
from pathlib import Path

from diffusers_erasure.errors import ConfigError
from diffusers_erasure.prompts.csv_file import read_csv
from diffusers_erasure.prompts.jsonl_file import read_jsonl
from diffusers_erasure.prompts.user_files import read_by_ending

PROMPT_NAMES = ("prompt", "adv_prompt", "adversarial_prompt", "text")
SEED_NAMES = ("seed", "evaluation_seed", "sd_seed")
GUIDANCE_NAMES = ("guidance", "guidance_scale", "evaluation_guidance", "sd_guidance_scale")
LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True)
class FilePrompt:
    """One prompt of a file.

    Attributes:
        prompt: What is asked of the pipeline.
        row: Line of the file on which it begins; the first is 1.
        seed: Seed of its picture, where the file gives one.
        guidance_scale: Guidance scale of its picture, where the file gives one.
    """

    prompt: str
    row: int
    seed: int | None = None
    guidance_scale: float | None = None


def read_prompt_file(path: str | Path) -> tuple[FilePrompt, ...]:
    """Read every prompt of a file.

    Args:
        path: File whose name ends in .csv, .jsonl or .txt.

    Raises:
        ConfigError: The file is missing, of another kind, not UTF-8, empty, or a row cannot be used.
    """
    file = Path(path).expanduser()
    prompts = read_by_ending(file, f"the prompt file {file}", _READERS)
    if not prompts:
        raise ConfigError(f"the prompt file {file} holds no prompt; expected at least one; give another file")
    return prompts


def _txt(_file: Path, text: str) -> Iterator[FilePrompt]:
    for row, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield FilePrompt(line.strip(), row)


def _jsonl(file: Path, text: str) -> Iterator[FilePrompt]:
    for row, found in read_jsonl(text, partial(_fault, file)):
        value = {"prompt": found} if isinstance(found, str) else found
        if not isinstance(value, dict):
            raise _fault(file, row, f"is {json.dumps(value)[:60]!r}", "a JSON object or string")
        names = _names(file, row, tuple(value))
        yield _prompt(file, row, value, names)


def _csv(file: Path, text: str) -> Iterator[FilePrompt]:
    fault = partial(_fault, file)
    table = read_csv(text, fault)
    if table.columns:
        names = _names(file, table.line, table.columns)
        for row, values in table.records(fault):
            yield _prompt(file, row, values, names)


def _names(file: Path, row: int, present: tuple[str, ...]) -> dict[str, str]:
    """Which of the present columns holds what."""
    folded = {name.casefold().strip(): name for name in present}
    wanted = {"prompt": PROMPT_NAMES, "seed": SEED_NAMES, "guidance": GUIDANCE_NAMES}
    found = {
        what: folded[next(name for name in names if name in folded)]
        for what, names in wanted.items()
        if any(name in folded for name in names)
    }
    if "prompt" not in found:
        raise _fault(
            file, row, f"names {', '.join(map(repr, present)) or 'nothing'}", "a column or key 'prompt'"
        )
    return found


def _prompt(file: Path, row: int, values: Mapping[str, object], names: Mapping[str, str]) -> FilePrompt:
    prompt = values[names["prompt"]]
    if not isinstance(prompt, str) or not prompt.strip():
        raise _fault(file, row, f"has the prompt {prompt!r}", "some text")
    seed = _number(file, row, "seed", values.get(names.get("seed", "")))
    if seed is not None and (seed != int(seed) or not 0 <= seed <= LARGEST_SEED):
        raise _fault(file, row, f"has the seed {seed}", f"a whole number from 0 to {LARGEST_SEED}")
    guidance = _number(file, row, "guidance scale", values.get(names.get("guidance", "")))
    if guidance is not None and guidance < 0:
        raise _fault(file, row, f"has the guidance scale {guidance}", "a number from 0 on")
    return FilePrompt(
        prompt.strip(),
        row,
        None if seed is None else int(seed),
        None if guidance is None else float(guidance),
    )


def _number(file: Path, row: int, what: str, value: object) -> float | None:
    """A number that may be missing; whole numbers stay exact."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    number: float | None = None
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        with suppress(ValueError, OverflowError):
            number = float(value) if isinstance(value, str) else value
            if isinstance(value, str) and number == int(number):
                # A float holds whole numbers up to 2**53; a larger seed has to be read as what it is.
                number = int(number) if abs(number) < 2**53 else int(value)
    if number is None or not isfinite(number):
        raise _fault(file, row, f"has the {what} {value!r}", "a number, or nothing")
    return number


def _fault(file: Path, row: int, found: str, expected: str) -> ConfigError:
    return ConfigError(f"{file}, row {row}: the row {found}; expected {expected}; correct that row")


_READERS = {".csv": _csv, ".jsonl": _jsonl, ".txt": _txt}
