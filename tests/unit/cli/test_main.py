"""The dispatcher: finds commands without importing them, and turns errors into one line."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from diffusers_erasure.cli import main as command_line
from diffusers_erasure.cli.main import Command, find_commands, main
from diffusers_erasure.errors import ConfigError

Captured = pytest.CaptureFixture[str]
FakeCommand = Callable[[Callable[[list[str]], int]], None]


@pytest.fixture
def fake_command(monkeypatch: pytest.MonkeyPatch) -> FakeCommand:
    """Function that makes `probe` the one command, with the given body."""

    def install(body: Callable[[list[str]], int]) -> None:
        module = ModuleType("probe_command")
        module.main = body  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "probe_command", module)
        commands = {"probe-it": Command("probe-it", "Probe", "probe_command")}
        monkeypatch.setattr(command_line, "find_commands", lambda: commands)

    return install


def succeed(argv: list[str]) -> int:
    """Body of a command that does nothing."""
    return 0


def raising(error: BaseException) -> Callable[[list[str]], int]:
    """Body of a command that fails."""

    def body(argv: list[str]) -> int:
        raise error

    return body


def test_commands_are_read_from_files_without_importing_them(tmp_path: Path) -> None:
    (tmp_path / "draw_grid.py").write_text('"""Draw a grid.\n\nMore."""\nboom\ndef main(argv): ...\n')
    (tmp_path / "list.py").write_text('"""List things."""\ndef main(argv): ...\n')
    (tmp_path / "console.py").write_text('"""No command: it has no main."""\n')
    (tmp_path / "main.py").write_text('"""The dispatcher."""\ndef main(argv): ...\n')
    found = find_commands(tmp_path)
    assert [(command.name, command.help) for command in found.values()] == [
        ("draw-grid", "Draw a grid"),
        ("list", "List things"),
    ]
    assert found["draw-grid"].module == "diffusers_erasure.cli.draw_grid"


def test_help_lists_the_commands(fake_command: FakeCommand, capsys: Captured) -> None:
    fake_command(succeed)
    assert main(["--help"]) == 0
    assert "probe-it  Probe" in capsys.readouterr().out


def test_without_a_command_the_help_goes_to_stderr(capsys: Captured) -> None:
    assert main([]) == 2
    captured = capsys.readouterr()
    assert "usage: diffusers-erasure" in captured.err
    assert not captured.out


def test_version(capsys: Captured) -> None:
    from diffusers_erasure import __version__

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"diffusers-erasure {__version__}\n"


@pytest.mark.parametrize("name", ["probe-it", "probe_it"])
def test_arguments_and_exit_code_pass_through(name: str, fake_command: FakeCommand) -> None:
    seen: list[list[str]] = []
    fake_command(lambda argv: seen.append(list(argv)) or 7)  # type: ignore[func-returns-value]
    assert main([name, "--concept", "dog"]) == 7
    assert seen == [["--concept", "dog"]]


def test_an_unknown_command_is_told_the_known_ones(fake_command: FakeCommand, capsys: Captured) -> None:
    fake_command(succeed)
    assert main(["prob-it"]) == 2
    message = capsys.readouterr().err
    assert "no command 'prob-it'" in message
    assert "known commands are probe-it" in message
    assert "did you mean 'probe-it'?" in message


def test_an_explained_error_is_one_line_without_traceback(
    fake_command: FakeCommand, capsys: Captured
) -> None:
    fake_command(raising(ConfigError("no such concept 'dogg'; known are cat, dog; choose one of them")))
    assert main(["probe-it"]) == 2
    expected = "error: no such concept 'dogg'; known are cat, dog; choose one of them\n"
    assert capsys.readouterr().err == expected


def test_debug_shows_the_traceback(fake_command: FakeCommand) -> None:
    fake_command(raising(ConfigError("no")))
    with pytest.raises(ConfigError):
        main(["--debug", "probe-it"])


def test_a_fault_of_ours_is_not_hidden(fake_command: FakeCommand) -> None:
    fake_command(raising(ZeroDivisionError("a bug")))
    with pytest.raises(ZeroDivisionError):
        main(["probe-it"])


def test_what_a_missing_torchvision_means_is_not_told(
    fake_command: FakeCommand, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing here needs it; what else transformers says at import still reaches the user."""
    log = logging.getLogger("transformers.utils.import_utils")

    def body(argv: list[str]) -> int:
        log.warning("`X` requires torchvision (not installed)")
        log.warning("something else")
        return 0

    fake_command(body)
    assert main(["probe-it"]) == 0
    log.removeFilter(command_line._matters_here)
    assert [record.message for record in caplog.records] == ["something else"]


def test_interrupting_is_no_traceback(fake_command: FakeCommand, capsys: Captured) -> None:
    fake_command(raising(KeyboardInterrupt()))
    assert main(["probe-it"]) == 130
    assert capsys.readouterr().err == "interrupted\n"
