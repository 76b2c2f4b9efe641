"""README and guides cannot rot: their Python runs, their commands exist.

What a fence of a page means here:

    ```python            runs, in page order, in one namespace a page and one empty folder
    ```python no-run     must compile, and what it imports from this package must exist (it needs a download)
    ```bash              every `diffusers-erasure` line names a command and options that exist
    ```bash run          the same, and it runs, in page order with the Python
"""

from __future__ import annotations

import ast
import contextlib
import io
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest

import diffusers_erasure
from diffusers_erasure.cli.main import PROGRAM, find_commands, main

ROOT = Path(__file__).resolve().parents[2]
PAGES = [path for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))) if path.is_file()]
FENCE = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```\s*$", flags=re.MULTILINE | re.DOTALL)
NOT_FOR_READERS = {"PreTrainedModel", "__version__"}
"""Public only so that other libraries find them."""


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    page: Path
    line: int
    language: str
    runs: bool
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """Python and shell blocks of a page, in its order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(text):
        language, words = match[1].lower(), match[2].split()
        language = "bash" if language in {"bash", "sh", "shell", "console"} else language
        runs = "no-run" not in words if language == "python" else "run" in words
        if language in {"python", "bash"}:
            line = text.count("\n", 0, match.start()) + 1
            found.append(Block(page, line, language, runs, match[3]))
    return found


def commands_in(text: str) -> list[list[str]]:
    """Argument lists of the `diffusers-erasure` lines of a shell block, without the program's name."""
    lines = text.replace("\\\n", " ").splitlines()
    words = [shlex.split(line.strip().removeprefix("$ "), comments=True) for line in lines]
    return [line[1:] for line in words if line[:1] == [PROGRAM]]


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
PYTHON = [block for block in BLOCKS if block.language == "python"]
COMMANDS = [(block, line) for block in BLOCKS if block.language == "bash" for line in commands_in(block.text)]


def run(block: Block, namespace: dict[str, object]) -> None:
    """Run one block; an error names the page and its line."""
    if block.language == "bash":
        for line in commands_in(block.text):
            assert main(line) == 0, f"{block}: {shlex.join(line)}"
        return
    code = compile("\n" * block.line + block.text, str(block.page), "exec")
    exec(code, namespace)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in blocks_of(page):
        if block.runs:
            run(block, namespace)


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_examples_import_what_exists(block: Block) -> None:
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom) and node.module == "diffusers_erasure":
            assert {alias.name for alias in node.names} <= set(diffusers_erasure.__all__)


def help_of(words: list[str]) -> str:
    """What a command prints for `--help`, with dashes in every option."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        try:
            code = main([*words, "--help"])
        except SystemExit as exit_:
            code = int(exit_.code or 0)
    assert code == 0, f"`{PROGRAM} {shlex.join(words)} --help` failed with {code}"
    return printed.getvalue().replace("_", "-")


@pytest.mark.parametrize(
    ("block", "line"), COMMANDS, ids=lambda value: None if isinstance(value, list) else str(value)
)
def test_commands_exist(block: Block, line: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    if line[0].startswith("-"):
        assert line[0] in {"--help", "--version"}
        return
    assert line[0] in find_commands(), f"{block}: there is no command {line[0]}"
    flags = [word.partition("=")[0].replace("_", "-") for word in line if word.startswith("--")]
    first = next((index for index, word in enumerate(line) if word.startswith("-")), len(line))
    text = help_of(line[:first])
    unknown = [flag for flag in flags if flag != "--help" and not re.search(rf"{flag}(?![\w-])", text)]
    assert not unknown, f"{block}: `{PROGRAM} {line[0]}` knows no {unknown}"


@pytest.mark.skipif(not (ROOT / "README.md").is_file(), reason="there is no README yet")
@pytest.mark.parametrize("name", sorted(set(diffusers_erasure.__all__) - NOT_FOR_READERS))
def test_every_public_name_is_explained(name: str) -> None:
    assert any(re.search(rf"\b{name}\b", page.read_text(encoding="utf-8")) for page in PAGES)


def test_a_block_is_read_as_written(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# Title\n\n```python\na = 1\n```\n\n```console\n$ diffusers-erasure list --all  # every one\n```\n\n"
        "```bash run\nmake demo\ndiffusers-erasure train uce \\\n  --concept 'a dog'\n```\n"
        "```python no-run\nb\n```\n",
        encoding="utf-8",
    )
    blocks = blocks_of(page)
    assert [(block.language, block.runs, block.line) for block in blocks] == [
        ("python", True, 3),
        ("bash", False, 7),
        ("bash", True, 11),
        ("python", False, 16),
    ]
    assert commands_in(blocks[1].text) == [["list", "--all"]]
    assert commands_in(blocks[2].text) == [["train", "uce", "--concept", "a dog"]]
