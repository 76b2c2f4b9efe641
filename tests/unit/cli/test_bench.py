"""The command: what it would run, what it runs, and the page at the end."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffusers_erasure.benchmark.cells import cells
from diffusers_erasure.benchmark.profiles import profile
from diffusers_erasure.cli.main import main
from tests.unit.benchmark.made_cells import finish


def test_a_list_shows_cells_and_commands_and_runs_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "--profile", "short", "--list", "--work_dir", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert said.count("0 of 4 steps finished") == len(cells(profile("short"), tmp_path)) == 5
    assert f"  diffusers-erasure train uce --concept church --seed 0 --output_dir {tmp_path}" in said
    assert "--attack unlearndiffatk" in said
    assert "full" in said
    assert not list(tmp_path.iterdir())


def test_a_report_is_made_of_what_is_finished(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (cell, *_) = cells(profile("short"), tmp_path)
    finish(cell, {"unlearndiffatk": 7, "random_tokens": 2})
    assert main(["bench", "--profile", "short", "--report", "--work_dir", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "1 of 5 cells are finished" in said
    assert "7/20" in said
    page = tmp_path / "report-short" / "README.md"
    assert "| UCE | 7/20 (18–57) | 2/20 (3–30) |" in page.read_text(encoding="utf-8")
    again = [
        "bench",
        "--stored",
        str(page.with_name("benchmark.json")),
        "--output_dir",
        str(tmp_path / "again"),
    ]
    assert main(again) == 0
    assert (tmp_path / "again" / "README.md").read_bytes() == page.read_bytes()


def test_what_another_machine_measured_is_shown_and_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    (cell, *_) = cells(profile("short"), there)
    finish(cell, {"unlearndiffatk": 7, "random_tokens": 2})
    assert main(["bench", "--report", "--work_dir", str(there)]) == 0
    results = str(there / "report-short" / "benchmark.json")
    capsys.readouterr()
    given = ["bench", "--methods", "uce", "--work_dir", str(here), "--known", results]
    assert main(given) == 0
    said = capsys.readouterr()
    assert "1 of 1 cells are finished" in said.err
    assert "7/20" in said.out
    assert not (here / "church").exists()


def test_a_cell_that_fails_is_told_with_its_log_and_the_page_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The folder of the artifact is there already, and `train` leaves what it did not make alone."""
    folder = tmp_path / "church" / "uce-0"
    (folder / "artifact").mkdir(parents=True)
    (folder / "artifact" / "notes.txt").touch()
    given = ["bench", "--profile", "short", "--methods", "uce", "--jobs", "1", "--work_dir", str(tmp_path)]
    assert main(given) == 1
    said = capsys.readouterr()
    assert "church, UCE, training seed 0: train failed; its log is" in " ".join(said.err.split())
    assert "holds files, but no artifact" in (folder / "train.log").read_text()
    assert "0 of 5 cells are finished" in said.out


def test_what_cannot_be_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--profile", "none"]) == 2
    assert "there is no profile 'none'" in capsys.readouterr().err
    assert main(["bench", "--jobs", "-1", "--work_dir", str(tmp_path)]) == 2
    assert "--jobs -1 cells at a time cannot be" in capsys.readouterr().err
    assert main(["bench", "--shard", "2/2", "--work_dir", str(tmp_path)]) == 2
    assert "expected i/n" in capsys.readouterr().err
    assert main(["bench", "--attacks", "p4d", "--list", "--work_dir", str(tmp_path)]) == 2
    assert "the profile short has no attack 'p4d'" in capsys.readouterr().err
