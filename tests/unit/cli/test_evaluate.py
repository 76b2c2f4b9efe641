"""`evaluate`: a table, a report, a grid, and an exit code that tells a valid measurement from another."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from diffusers_erasure.artifacts import Artifact, save_artifact
from diffusers_erasure.artifacts.manifest import MANIFEST_NAME, ConceptRecord
from diffusers_erasure.cli.main import main
from diffusers_erasure.evaluation.report import Verdict, read_report
from tests.foreign_models import write_clip

Captured = pytest.CaptureFixture[str]


def run(*arguments: object) -> int:
    return main(["evaluate", *map(str, arguments), "--n", "1", "--num_inference_steps", "2"])


@pytest.mark.usefixtures("church_panel")
def test_it_writes_report_and_grid(saved_artifact: Path, tmp_path: Path, capsys: Captured) -> None:
    results = tmp_path / "results"
    code = run(saved_artifact, "--output_dir", results)
    report = read_report(results / "evaluation.json")
    captured = capsys.readouterr()
    assert code == (0 if report.verdict is Verdict.MEASURED else 1)
    assert "own name" in captured.out
    assert "not measured: attacks" in captured.out
    assert captured.out.splitlines()[-1] == f"wrote {results / 'grid.png'}"
    assert "evaluation.json" not in {path.name for path in saved_artifact.iterdir()}
    assert (report.settings.steps, report.settings.guidance_scale) == (2, 7.5)


@pytest.mark.usefixtures("church_panel")
def test_results_can_be_attached_to_the_artifact(saved_artifact: Path, tmp_path: Path) -> None:
    before = json.loads((saved_artifact / MANIFEST_NAME).read_text())
    run(saved_artifact, "--output_dir", tmp_path / "results", "--attach")
    after = json.loads((saved_artifact / MANIFEST_NAME).read_text())
    assert set(after["attachments"]) == {"evaluation.json", "grid.png"}
    assert after["evaluation"]["own name"].endswith("(base 1/1)")
    assert after["evaluation"]["attacks"] == "not measured"
    assert after["evaluation"]["fidelity"] == "not measured"
    assert after["files"] == before["files"]
    report = read_report(saved_artifact / "evaluation.json")
    run(saved_artifact, "--output_dir", tmp_path / "again")
    assert read_report(tmp_path / "again" / "evaluation.json").erasure.digest == report.erasure.digest


def test_labels_of_the_users_own_are_refused(saved_artifact: Path, capsys: Captured) -> None:
    assert run(saved_artifact, "--judge", "clip:x/y#a church") == 2
    assert "another one in every prompt set" in capsys.readouterr().err


def test_a_concept_of_ones_own_is_evaluated_with_prompts_of_ones_own(
    tiny_artifact: Artifact, tmp_path: Path, capsys: Captured
) -> None:
    manifest = tiny_artifact.manifest.model_copy(update={"concepts": (ConceptRecord(name="zeppelin"),)})
    folder = save_artifact(replace(tiny_artifact, manifest=manifest), tmp_path / "zeppelin-uce")
    prompts = tmp_path / "sets.csv"
    prompts.write_text(
        "set,prompt,label\nown name,a zeppelin over the sea,\nother concepts,a kite over the sea,kite\n"
    )
    results, clip = tmp_path / "results", f"clip:{write_clip(tmp_path / 'clip')}"
    command = ["evaluate", folder, "--prompts", prompts, "--judge", clip, "--num_inference_steps", "1"]
    code = main([*map(str, command), "--n", "3", "--output_dir", str(results), "--device", "cpu"])
    report = read_report(results / "evaluation.json")
    assert code == (0 if report.verdict is Verdict.MEASURED else 1)
    assert [(row.name, row.base.n) for row in report.rows] == [("own name", 3), ("other concepts", 3)]
    assert report.erasure.concepts == ("zeppelin",)
    assert "own name" in capsys.readouterr().out


def test_prompts_that_cannot_be_used_are_refused_before_anything_is_loaded(
    saved_artifact: Path, tmp_path: Path, capsys: Captured
) -> None:
    for weights in saved_artifact.glob("*.safetensors"):
        weights.unlink()
    prompts = tmp_path / "sets.csv"
    prompts.write_text("set,prompt\nstyles,a church\n")
    assert run(saved_artifact, "--prompts", prompts) == 2
    assert "row 2: the row of the set 'styles' has no label" in capsys.readouterr().err
    assert run(saved_artifact, "--retention_judge", "clip:x/y") == 2
    assert "give --prompts FILE" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("no/such/folder",), "no/such/folder"),
        (("org/artifact", "--attach"), "which is no folder here"),
    ],
)
def test_what_cannot_be_evaluated_is_explained(
    arguments: tuple[str, ...], message: str, capsys: Captured
) -> None:
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error


@pytest.mark.usefixtures("church_panel")
def test_features_measure_the_fidelity(saved_artifact: Path, tmp_path: Path, capsys: Captured) -> None:
    results = tmp_path / "results"
    main([
        "evaluate", str(saved_artifact), "--output_dir", str(results), "--features", "embedded", "--n", "7",
        "--num_inference_steps", "1", "--attach",
    ])  # fmt: skip
    report = read_report(results / "evaluation.json")
    assert report.fidelity.extractor == "embedded-concept"
    assert "all of these 21 " in " ".join(capsys.readouterr().out.split())
    noted = json.loads((saved_artifact / MANIFEST_NAME).read_text())["evaluation"]["fidelity"]
    assert noted["features"] == "embedded-concept"
    assert noted["all of these"].startswith(f"agreement {report.fidelity.rows[0].agreement.value:.3g} (")


@pytest.mark.usefixtures("church_panel")
def test_zero_pictures_are_refused(saved_artifact: Path, capsys: Captured) -> None:
    assert main(["evaluate", str(saved_artifact), "--n", "0"]) == 2
    assert "0 pictures per set cannot be drawn" in capsys.readouterr().err


@pytest.mark.usefixtures("church_panel")
def test_attacks_are_reported_with_a_plot(saved_artifact: Path, tmp_path: Path, capsys: Captured) -> None:
    results = tmp_path / "results"
    run(saved_artifact, "--output_dir", results, "--attacks", "seed-search", "--budget_factors", "1")
    report = read_report(results / "evaluation.json")
    captured = capsys.readouterr().out
    assert {path.name for path in results.glob("*.*")} == {
        "asr.png", "evaluation.json", "grid.png", "outcomes.jsonl"
    }  # fmt: skip
    assert report.attacks.attacks[0].name == "seed_search"
    assert report.attacks.attacks[0].convergence == "not measured"
    assert "worst case over all attacks: 1/1" in captured


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--attacks", "random-token"), "did you mean 'random_tokens'"),
        (("--attacks", "random-tokens", "--budget", "huge"), "known budgets are"),
        (("--features", "inception"), "there is no extractor of features named 'inception'"),
        (("--attacks", "random-tokens", "--budget_factors", "2", "1"), "expected rising whole numbers"),
    ],
)
def test_attacks_that_cannot_be_run_are_explained(
    saved_artifact: Path, arguments: tuple[str, ...], message: str, capsys: Captured
) -> None:
    assert run(saved_artifact, *arguments) == 2
    assert message in capsys.readouterr().err
