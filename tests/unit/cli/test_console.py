"""What commands show, seen from a pipe: plain text, results on stdout, the rest on stderr."""

from __future__ import annotations

import pytest

from diffusers_erasure.cli.console import note, progress, say, show_facts, show_table, warn

Captured = pytest.CaptureFixture[str]


def test_a_table_prints_its_cells_as_they_are(capsys: Captured) -> None:
    show_table(["concept", "k/n"], [["[red]church", 3], ["dog", 12]], title="Judged", numbers=["k/n"])
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines == ["Judged", "concept      k/n", "[red]church    3", "dog           12"]


def test_facts_are_aligned(capsys: Captured) -> None:
    show_facts({"method": "uce", "state": "[verified]"})
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [["method", "uce"], ["state", "[verified]"]]


def test_results_and_notices_do_not_mix(capsys: Captured) -> None:
    say("a [result]")
    note("a [note]")
    warn("careful")
    captured = capsys.readouterr()
    assert captured.out == "a [result]\n"
    assert captured.err == "a [note]\nwarning: careful\n"


def test_progress_leaves_stdout_alone_and_forwards_errors(capsys: Captured) -> None:
    def work() -> None:
        with progress("drawing") as report:
            report(1, 2, "church")
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        work()
    assert not capsys.readouterr().out
