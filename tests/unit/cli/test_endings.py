"""How commands end where the world is not as it should be: explained, and with the code that they promise."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from diffusers_erasure.artifacts.store import check_target
from diffusers_erasure.cli.main import main
from diffusers_erasure.cli.train import saying_where_it_stops
from diffusers_erasure.errors import ConfigError
from diffusers_erasure.training.stopping import TrainingStopped

COMMAND = (sys.executable, "-m", "diffusers_erasure")


@pytest.mark.parametrize(
    "arguments", [["--help"], ["list", "embedded"], ["inspect", "embedded/church-uce"], ["bench", "--list"]]
)
def test_a_reader_that_goes_away_is_no_error(arguments: list[str]) -> None:
    process = subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0
    assert b"Traceback" not in said


def test_letters_that_a_stream_does_not_have_are_replaced() -> None:
    found = subprocess.run(
        [*COMMAND, "inspect", "embedded/church-esd"],
        capture_output=True,
        env={"PYTHONIOENCODING": "cp1252", "PATH": "", "COLUMNS": "120"},
        timeout=120,
        check=False,
    )
    assert found.returncode == 0, found.stderr


def test_a_place_that_cannot_be_written_is_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("x")
    assert main(["bench", "--report", "--work_dir", str(tmp_path / "file" / "runs")]) == 2
    said = capsys.readouterr().err
    assert "Not a directory" in said
    assert "expected a place that can be read and written" in said


@pytest.mark.parametrize("command", [["train", "uce"], ["train", "esd"], ["compose", "a", "b"]])
@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("file/new", "is a file; expected a folder that can be written to"),
        ("kept", "holds files, but no artifact"),
    ],
)
def test_a_place_for_an_artifact_is_looked_at_before_the_work(
    command: list[str], place: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "note.txt").write_text("mine")
    concept = ["--concept", "church"] if command[0] == "train" else []
    told = [*command, *concept, "--output_dir", str(tmp_path / place), "--overwrite"]
    assert main(told) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert message in said
    assert "church:" not in said, "nothing was trained"
    assert (tmp_path / "kept" / "note.txt").is_file()


def test_an_empty_folder_may_take_an_artifact(tmp_path: Path) -> None:
    check_target(tmp_path, overwrite=False)
    check_target(tmp_path / "new" / "deep", overwrite=False)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="is a file"):
        check_target(tmp_path / "file", overwrite=True)


@pytest.mark.parametrize(
    ("checkpoint", "said"),
    [
        (Path("run/checkpoint-7"), r"saved run/checkpoint-7; .* --resume_from_checkpoint latest"),
        (None, "nothing"),
    ],
)
def test_a_training_that_is_stopped_says_where_it_goes_on(
    checkpoint: Path | None, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped, saying_where_it_stops(first=True):
        raise TrainingStopped(2, 7, checkpoint)
    assert stopped.value.code == 130
    assert re.search(f"stopped at step 7; {said}", " ".join(capsys.readouterr().err.split()))
