"""`demo`: the whole way from concept to picture, here with the tiny pipeline in the embedded one's place."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from diffusers_erasure.artifacts.door import load_artifact
from diffusers_erasure.cli.demo import shipped_rivals
from diffusers_erasure.cli.main import main
from diffusers_erasure.embedded import embedded_erasures
from diffusers_erasure.evaluation.report import read_report
from diffusers_erasure.evaluation.tables import methods_table


@pytest.mark.usefixtures("church_panel")
def test_the_demo_ends_with_a_picture(
    tiny_pipe_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("diffusers_erasure.embedded.embedded_folder", lambda: tiny_pipe_folder)
    monkeypatch.setattr("diffusers_erasure.embedded.embedded_erasures", dict)
    monkeypatch.setattr("diffusers_erasure.evaluation.generate.EMBEDDED_STEPS", 2)
    assert main(["demo", "--n", "1", "--output_dir", str(tmp_path)]) == 0
    captured = capsys.readouterr()
    assert captured.out.rstrip().endswith(f"see the picture: {tmp_path / 'demo.png'}")
    assert "own name" in captured.out
    with Image.open(tmp_path / "demo.png") as picture:
        assert picture.width > 3 * 128
    artifact = load_artifact(tmp_path / "demo" / "church-uce")
    report = read_report(tmp_path / "demo" / "evaluation.json")
    assert report.erasure.digest == artifact.digest
    assert report.erasure.base == "embedded"
    assert artifact.manifest.evaluation is not None
    with Image.open(tmp_path / "demo.png") as alone, Image.open(tmp_path / "demo" / "grid.png") as grid:
        assert alone.tobytes() == grid.tobytes()
    monkeypatch.setattr(
        "diffusers_erasure.cli.demo.shipped_rivals",
        lambda concepts, besides: {"another": tmp_path / "demo" / "church-uce"},
    )
    assert main(["demo", "--n", "1", "--output_dir", str(tmp_path)]) == 0
    assert "another" in capsys.readouterr().out


def test_rivals_are_of_the_same_concept_and_another_method() -> None:
    found = shipped_rivals(["church"], besides="uce")
    assert set(found) >= {"advunlearn", "trce", "aegis"}
    assert "uce" not in found
    assert shipped_rivals(["dog", "church"], besides="uce") == {}


def test_the_table_says_which_attacks_were_tried() -> None:
    reports = {name: read_report(folder / "evaluation.json") for name, folder in embedded_erasures().items()}
    table = methods_table(reports, title="of the package")
    assert str(table.title).startswith("of the package: pictures that show")
    columns = {str(column.header): list(column.cells) for column in table.columns}
    (names, *_) = columns.values()
    assert list(columns)[1:] == list(reports)
    for name, tried in (("own name", True), ("unlearndiffatk", True), ("soft prompt", False)):
        assert (columns["embedded/church-trce"][names.index(name)] != "-") == tried
    rivals = shipped_rivals(["church"], besides="")
    found = {name: read_report(folder / "evaluation.json") for name, folder in rivals.items()}
    console = Console(width=80, record=True)
    console.print(methods_table(found, title="of the package"))
    assert "  100/100  " in console.export_text()  # an ordinary terminal is wide enough
