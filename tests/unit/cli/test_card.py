"""The command that writes cards."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from diffusers_erasure.artifacts.manifest import parse_manifest
from diffusers_erasure.cards import render_card
from diffusers_erasure.cli.main import main


def test_a_card_is_written_beside_the_artifact(
    saved_artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["card", str(saved_artifact), "--repo_id", "someone/church"]) == 0
    text = (saved_artifact / "README.md").read_text(encoding="utf-8")
    assert text == render_card(saved_artifact, repo_id="someone/church")
    assert "README.md" in capsys.readouterr().out


def test_an_attached_card_is_noted_in_the_manifest(
    saved_artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "pages" / "card.html"
    assert (
        main(["card", str(saved_artifact), "--license", "apache-2.0", "--attach", "--html", str(page)]) == 0
    )
    manifest = parse_manifest((saved_artifact / "erasure_config.json").read_bytes(), origin="test")
    assert set(manifest.attachments) == {"README.md"}
    assert "license: apache-2.0" in (saved_artifact / "README.md").read_text()
    assert "<h1>" in page.read_text()
    capsys.readouterr()
    assert main(["card", str(saved_artifact)]) == 2
    assert "--attach" in capsys.readouterr().err
    other = tmp_path / "other.md"
    assert main(["card", str(saved_artifact), "--output", str(other)]) == 0
    assert other.is_file()


def test_kept_cards_are_renewed(repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = tmp_path / "hub_cards"
    shutil.copytree(repository / "hub_cards", kept)
    (kept / "advunlearn" / "church.md").write_text("old")
    arguments = ["card", "--hub_cards", str(kept), "--artifacts", str(tmp_path / "none")]
    assert main(arguments) == 0
    assert capsys.readouterr().out.splitlines() == [f"wrote {kept / 'advunlearn' / 'church.md'}"]
    assert (kept / "advunlearn" / "church.md").read_text() != "old"
    assert main(arguments) == 0
    assert not capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "neither a folder"),
        (["nowhere"], "is no folder"),
        (["nowhere", "--attach", "--output", "x.md"], "both given"),
        (["nowhere", "--hub_cards", "y"], "options of a single card"),
        (["--hub_cards", "nowhere"], "nowhere is no folder"),
    ],
)
def test_what_makes_no_sense_is_refused(
    arguments: list[str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["card", *arguments]) == 2
    assert told in capsys.readouterr().err
