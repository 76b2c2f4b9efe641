"""`reactivate`: a table, a report and a picture, and what it says where something cannot be tried."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from diffusers_erasure.artifacts.manifest import MANIFEST_NAME
from diffusers_erasure.cli.main import main
from diffusers_erasure.evaluation.reactivation_report import read_reactivation

Captured = pytest.CaptureFixture[str]


def run(*arguments: object) -> int:
    return main(["reactivate", *map(str, arguments), "--n", "1", "--num_inference_steps", "2"])


@pytest.mark.usefixtures("church_panel")
def test_it_writes_and_attaches_report_and_picture(
    saved_artifact: Path, tmp_path: Path, capsys: Captured
) -> None:
    results = tmp_path / "results"
    assert run(saved_artifact, "--output_dir", results, "--items", "merge,img2img", "--attach") == 0
    report = read_reactivation(results / "reactivation.json")
    assert [row.key for row in report.rows] == ["merge-0.5", "img2img-0.3", "img2img-0.6", "img2img-0.9"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"wrote {results / 'reactivation.png'}"
    assert any(line.startswith("not measured: concept inversion") for line in lines)
    attached = json.loads((saved_artifact / MANIFEST_NAME).read_text())["attachments"]
    assert set(attached) == {"reactivation.json", "reactivation.png"}


@pytest.mark.usefixtures("church_panel")
def test_data_that_shows_the_concept_leaves_fine_tuning_not_measured(
    saved_artifact: Path, tmp_path: Path, capsys: Captured
) -> None:
    """The judge sees a church everywhere, so nothing is left to learn from that is no church."""
    code = run(
        saved_artifact, "--output_dir", tmp_path, "--items", "full,int8", "--steps", "1", "--pictures", "1"
    )
    assert code == 0
    report = read_reactivation(tmp_path / "reactivation.json")
    assert [row.key for row in report.rows] == ["int8"]
    assert "the judge sees the concept in all" in report.not_measured["full-related-1"]
    assert "the judge sees the concept in all" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--items", "inat8"), "there is no item 'inat8'"),
        (("--steps", "ten"), "--steps 'ten' are no numbers of steps"),
        (("--steps", "10,5"), "expected rising whole numbers"),
        (("--with", "int8"), "nothing that stands beside the items"),
        (("--rank", "0"), "rank"),
    ],
)
def test_what_cannot_be_tried_is_explained(
    saved_artifact: Path, arguments: tuple[str, ...], message: str, capsys: Captured
) -> None:
    assert run(saved_artifact, *arguments) == 2
    assert message in capsys.readouterr().err


def test_only_a_folder_can_be_attached_to(capsys: Captured) -> None:
    assert run("org/artifact", "--attach") == 2
    assert "which is no folder here" in capsys.readouterr().err
