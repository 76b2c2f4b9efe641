"""Find the command, import that one file, run it, and turn errors into one clear line.

Every file of this folder that defines `main(argv) -> int` is a command; its name is the file's name with
dashes, and its help is the first line of its docstring. Both are read from the source without importing it,
so `diffusers-erasure --help` answers at once although the commands themselves need torch.
"""

from __future__ import annotations

import ast
import importlib
import io
import logging
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from diffusers_erasure._version import __version__
from diffusers_erasure.errors import ErasureError

PROGRAM = "diffusers-erasure"
EXIT_OK, EXIT_ERROR, EXIT_INTERRUPTED = 0, 2, 130

USAGE = f"""\
usage: {PROGRAM} COMMAND [OPTIONS]

Erase concepts from text-to-image diffusion models, attack the result, and measure what is left.
"""
OPTIONS = f"""\
options:
  -h, --help     show this help, or `{PROGRAM} COMMAND --help` for one command's
  --version      show the version
  --debug        (before COMMAND) show the whole traceback of an error
"""


@dataclass(frozen=True)
class Command:
    """One command: the name that is typed, its one-line help, and the module that holds it."""

    name: str
    help: str
    module: str


def find_commands(folder: Path | None = None) -> dict[str, Command]:
    """Commands by name, in alphabetical order, read from the sources without importing them."""
    found = {}
    for path in sorted((folder or Path(__file__).parent).glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if path.stem != "main" and _defines_main(tree):
            name = path.stem.strip("_").replace("_", "-")
            summary = (ast.get_docstring(tree) or "").partition("\n")[0].rstrip(".")
            found[name] = Command(name, summary, f"{__package__}.{path.stem}")
    return found


def _defines_main(tree: ast.Module) -> bool:
    return any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body)


def help_text(commands: dict[str, Command]) -> str:
    """What `--help` prints: usage, the table of commands, the options."""
    indent = 4 + max(map(len, commands), default=0)
    columns = max(shutil.get_terminal_size().columns, indent + 40)
    lines = [
        textwrap.fill(
            f"  {command.name:<{indent - 2}}{command.help}", columns, subsequent_indent=" " * indent
        )
        for command in commands.values()
    ]
    return "\n".join([USAGE, "commands:", *lines, "", OPTIONS])


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; exit code 0 is done, 2 an error that was explained, 130 interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = arguments[:1] == ["--debug"]
    if debug:
        arguments.pop(0)
    _spell_out_what_can_be()
    commands = find_commands()
    if not arguments:
        sys.stderr.write(help_text(commands))
        return EXIT_ERROR
    name, *rest = arguments
    if name in ("-h", "--help", "help"):
        return _tell(help_text(commands))
    if name in ("--version", "-V"):
        return _tell(f"{PROGRAM} {__version__}\n")
    command = commands.get(name.replace("_", "-"))
    if command is None:
        return _fail(_unknown(name, commands))
    return _run(command, rest, debug=debug)


def _tell(text: str) -> int:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        return _reader_left()
    return EXIT_OK


def _spell_out_what_can_be() -> None:
    """Let a stream that has no η (Windows, redirected) show a question mark rather than fail."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _unknown(name: str, commands: dict[str, Command]) -> str:
    near = get_close_matches(name, commands, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return (
        f"there is no command {name!r}; known commands are {', '.join(commands) or 'none'}; "
        f"{hint}`{PROGRAM} --help` says what each one does"
    )


def _run(command: Command, arguments: Sequence[str], *, debug: bool) -> int:
    logging.getLogger("transformers.utils.import_utils").addFilter(_matters_here)
    try:
        entry: Callable[[Sequence[str]], int] = importlib.import_module(command.module).main
        return entry(arguments)
    except ErasureError as error:
        if debug:
            raise
        return _fail(str(error))
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        return _reader_left()
    except OSError as error:
        if debug:
            raise
        return _fail(
            f"{error}; expected a place that can be read and written; give another, or run "
            f"`{PROGRAM} --debug ...` to see where it happened"
        )


def _reader_left() -> int:
    """The reader (`| head`) went away: that is its right. Keep Python from complaining again at exit."""
    sys.stdout = None
    return EXIT_OK


def _matters_here(record: logging.LogRecord) -> bool:
    """Transformers says at import that torchvision is missing, which nothing here needs."""
    return "requires torchvision" not in record.getMessage()


def _fail(message: str) -> int:
    sys.stderr.write(f"error: {message}\n")
    return EXIT_ERROR
