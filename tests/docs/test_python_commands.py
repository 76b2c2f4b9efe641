"""Every `python ...` command that a page or a benchmark names can be started as it is written there.

Starting each of them would load torch each time, so their sources are read instead: a module that is started
with `-m` exists, a file that is started by its path imports nothing that only lies beside it, and the parser
has the flags.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "hub_cards/*.md", "benchmarks/*.py", "diffusers_erasure/**/*.md")
    for path in ROOT.glob(pattern)
)
COMMAND = re.compile(r"\bpython3? (?:-m (?P<module>[\w.]+)|(?P<file>[\w./-]+\.py))(?P<rest>[^`\n]*)")


def commands_in(text: str) -> list[re.Match[str]]:
    """The `python` commands of a page; one that goes on in the next line is read as one."""
    return list(COMMAND.finditer(re.sub(r"\\\n\s*", " ", text)))


def source_of(command: re.Match[str]) -> Path | None:
    """The file that a command starts, if it is one of this repository."""
    if command["file"]:
        return ROOT / command["file"]
    stem = ROOT / command["module"].replace(".", "/")
    return stem / "__main__.py" if stem.is_dir() else stem.with_suffix(".py")


def imported(source: str) -> set[str]:
    """Packages that a source imports, by their first name."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    return found


def faults_of(command: re.Match[str]) -> Iterator[str]:
    """Why a command could not be started as it is written."""
    path = source_of(command)
    first = (command["module"] or "").partition(".")[0]
    if path is None or not path.is_file():
        if not first or (ROOT / first).is_dir() or importlib.util.find_spec(first) is None:
            yield f"{command[0]!r} starts nothing that exists"
        return
    source = path.read_text(encoding="utf-8")
    if command["file"] and path.parent.name in imported(source):
        yield f"{command[0]!r} imports {path.parent.name}, which only `python -m` finds from here"
    if "argparse" in source:
        words = shlex.split(command["rest"].replace("[", " ").replace("]", " "), comments=True)
        flags = {word.partition("=")[0] for word in words if word.startswith("--")}
        for flag in sorted(flags):
            if (
                f'"{flag}"' not in source and f'"{flag[2:]}"' not in source
            ):  # some are made in a loop of names
                yield f"{command[0]!r}: no flag {flag}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_python_commands_can_be_started(page: Path) -> None:
    found = commands_in(page.read_text(encoding="utf-8"))
    assert not [fault for command in found for fault in faults_of(command)]


def test_commands_are_found() -> None:
    found = [command for page in PAGES for command in commands_in(page.read_text(encoding="utf-8"))]
    assert {command["module"] for command in found} >= {"benchmarks.closed_form", "benchmarks.inference"}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("python -m benchmarks.no_such --n 3", "starts nothing"),
        ("python benchmarks/no_such.py", "starts nothing"),
        ("python benchmarks/closed_form_growth.py", "imports benchmarks"),
        ("python -m benchmarks.closed_form --threads 2 --no_such_flag", "no flag --no_such_flag"),
    ],
)
def test_the_rules_find_what_they_forbid(text: str, fault: str) -> None:
    (command,) = commands_in(text)
    assert any(fault in found for found in faults_of(command))
