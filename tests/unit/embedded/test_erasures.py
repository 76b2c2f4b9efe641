"""The erasures that ship with the embedded pipeline: found by name, whole, small, and measured."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from diffusers_erasure.artifacts.door import load_artifact
from diffusers_erasure.cli.main import main
from diffusers_erasure.embedded import embedded_erasures, erasures_folder, resolve_model
from diffusers_erasure.errors import ArtifactNotFoundError
from diffusers_erasure.evaluation.report import Verdict, read_report

MEGABYTE = 2**20
METHODS = {"uce", "esd", "advunlearn", "trce", "aegis"}


@pytest.fixture(params=sorted(embedded_erasures()))
def name(request: pytest.FixtureRequest) -> str:
    """Each of them in turn."""
    return str(request.param)


def test_every_method_ships_one() -> None:
    assert {load_artifact(name).manifest.method for name in embedded_erasures()} == METHODS


def test_they_are_small() -> None:
    files = [path for path in erasures_folder().rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 10 * MEGABYTE


def test_each_names_the_embedded_pipeline_and_what_was_measured(name: str) -> None:
    artifact = load_artifact(name)
    assert artifact.manifest.base.id == "embedded"
    report = read_report(embedded_erasures()[name] / "evaluation.json")
    assert report.erasure.digest == artifact.digest
    assert report.verdict is Verdict.MEASURED
    own = report.row("own name")
    assert own is not None
    assert own.base.n >= 100
    assert own.erased.rate < 0.05
    assert own.base.rate > 0.9


def test_attached_files_are_what_the_manifest_says(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", name, "--pretrained_model_name_or_path", "embedded"]) == 0
    assert "verified" in capsys.readouterr().out


def test_the_card_that_is_kept_shows_its_pictures(name: str, repository: Path) -> None:
    card = repository / "hub_cards" / f"{name}.md"
    shown = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", card.read_text(encoding="utf-8"))
    assert shown
    assert all((card.parent / path).is_file() for path in shown)


def test_list_shows_them_by_the_name_that_is_typed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "embedded"]) == 0
    shown = capsys.readouterr().out.replace("\n", "")
    assert all(part in shown for name in embedded_erasures() for part in name.split("-"))


def test_a_name_that_does_not_ship_is_refused_with_those_that_do() -> None:
    with pytest.raises(ArtifactNotFoundError, match=r"did you mean 'embedded/church-trce'"):
        load_artifact("embedded/church-trcee")


def test_folders_of_ones_own_keep_their_names(tmp_path: Path) -> None:
    assert resolve_model("./embedded/church-trce") == "./embedded/church-trce"
    with pytest.raises(ArtifactNotFoundError, match="embedded/church-trce"):
        load_artifact(tmp_path / "embedded" / "church-trce")
