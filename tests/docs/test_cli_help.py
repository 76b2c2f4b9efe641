"""Every command explains itself: a line in the list, and a page of its own."""

from __future__ import annotations

import pytest

from diffusers_erasure.cli.main import Command, find_commands, help_text, main

COMMANDS = list(find_commands().values())


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_the_summary_is_one_sentence(command: Command) -> None:
    assert 10 <= len(command.help) <= 110
    assert command.help[0].isupper()
    assert command.help in " ".join(help_text(find_commands()).split())


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_help_is_a_success(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main([command.name, "--help"])
    except SystemExit as exit_:
        code = int(exit_.code or 0)
    assert code == 0
    assert len(capsys.readouterr().out.splitlines()) >= 3


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_an_unknown_option_is_refused(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main([command.name, "--no-such-option"])
    except SystemExit as exit_:
        code = int(exit_.code or 0)
    assert code == 2
    assert capsys.readouterr().err
