"""Every command explains itself: a line in the list, and a page of its own."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest

from diffusers_erasure.cli.main import Command, find_commands, help_text, main

COMMANDS = list(find_commands().values())
PAGES = [*((command.name,) for command in COMMANDS), ("train", "esd"), ("attack", "--attack", "replay")]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_the_summary_is_one_sentence(command: Command) -> None:
    assert 10 <= len(command.help) <= 110
    assert command.help[0].isupper()
    assert command.help in " ".join(help_text(find_commands()).split())


def page_of(words: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What `--help` prints for a command."""
    try:
        code = main([*words, "--help"])
    except SystemExit as exit_:
        code = int(exit_.code or 0)
    assert code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("words", PAGES, ids=" ".join)
def test_help_speaks_of_flags_in_one_way(
    words: Sequence[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    page = page_of(words, capsys)
    assert len(page.splitlines()) >= 3
    assert not re.findall(r"--\w+-\w+", page), "flags are shown with underscores"
    assert not re.findall(r"--no_no_\w+", page)
    if words[0] != "train":  # there the defaults are those of the method's settings, as they are recorded
        assert not re.findall(r"\(default: (?:'')?\)", page), "an empty default says nothing"
    alone = page.partition(" positional arguments ")[2].partition(" options ")[0]
    assert not re.findall(r"\b(?:STR|PATH)\b", alone), "what stands alone is called what it is"
    examples = [line for line in page.splitlines() if "diffusers-erasure" in line and "`" not in line]
    assert all(line.count("diffusers-erasure") == 1 for line in examples)


def test_a_flag_that_says_no_has_no_opposite(capsys: pytest.CaptureFixture[str]) -> None:
    assert re.search(r"--no_passphrase\s+with --new_key", page_of(["sign"], capsys))


@pytest.mark.parametrize("flag", ["--batch-size", "--batch_size"])
def test_both_spellings_of_a_flag_are_accepted(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "--prompt", "a church", flag, "0"]) == 2
    assert "--batch_size 0 show nothing" in capsys.readouterr().err


def test_attack_help_names_the_settings_under_both_budgets(capsys: pytest.CaptureFixture[str]) -> None:
    page = page_of(["attack"], capsys)
    assert "`diffusers-erasure attack --attack NAME --help` lists the settings of an attack" in page
    assert "columns prompt and" in " ".join(page.split())
    page = page_of(["attack", "--attack=p4d"], capsys)
    assert re.search(r"--steps +60 +3000 ", page)
    assert "--batch_size" not in page.partition("settings of p4d")[2]


def test_the_help_of_no_attack_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["attack", "--attack", "p5d", "--help"]) == 2
    assert "did you mean 'p4d'" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_an_unknown_option_is_refused(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main([command.name, "--no-such-option"])
    except SystemExit as exit_:
        code = int(exit_.code or 0)
    assert code == 2
    assert capsys.readouterr().err
