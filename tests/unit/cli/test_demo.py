"""`demo`: the whole way from concept to picture, here with the tiny pipeline in the embedded one's place."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from diffusers_erasure.artifacts.door import load_artifact
from diffusers_erasure.cli.main import main
from diffusers_erasure.evaluation.report import read_report


@pytest.mark.usefixtures("church_panel")
def test_the_demo_ends_with_a_picture(
    tiny_pipe_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("diffusers_erasure.embedded.embedded_folder", lambda: tiny_pipe_folder)
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
    assert main(["demo", "--n", "1", "--output_dir", str(tmp_path)]) == 0
