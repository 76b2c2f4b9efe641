"""inspect, verify and list."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffusers_erasure.artifacts.door import load_artifact
from diffusers_erasure.artifacts.store import attach_file
from diffusers_erasure.cli.main import main
from diffusers_erasure.embedded import embedded_erasures
from tests.unit.artifacts.tampering import WEIGHTS, change_bytes


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def test_inspect_shows_what_the_manifest_says(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(folder)]) == 0
    shown = capsys.readouterr().out
    for word in (
        "church",
        "tiny",
        "right factor",
        "how much stays",
        "nothing yet",
        "text_encoder",
        "unconditional",
    ):
        assert word in shown
    attach_file(folder, "evaluation.json", b"{}", evaluation={"own name": "0/50"})
    main(["inspect", str(folder)])
    assert "0/50" in capsys.readouterr().out


def test_inspect_explains_what_is_wrong(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change_bytes(folder, lambda data: data[:-1])
    assert main(["inspect", str(folder)]) == 2
    assert "truncated" in capsys.readouterr().err


def test_verify_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    attach_file(folder, "README.md", b"# card")
    assert main(["verify", str(folder)]) == 0
    (folder / "README.md").write_text("changed")
    assert main(["verify", str(folder)]) == 0
    assert "README.md was changed" in capsys.readouterr().out
    change_bytes(folder, lambda data: data[:-1] + bytes([data[-1] ^ 1]))
    assert main(["verify", str(folder)]) == 1
    assert WEIGHTS in capsys.readouterr().out


def test_what_cannot_be_reached_has_not_failed(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (
        [str(tmp_path / "nothing")],
        ["someone/never-downloaded", "--local_files_only", "--cache_dir", str(tmp_path)],
        [str(folder), "--pretrained_model_name_or_path", str(tmp_path / "no-base")],
    ):
        assert main(["verify", *arguments]) == 2
        assert "not verified" not in capsys.readouterr().out
    next(folder.glob("*.safetensors")).unlink()
    assert main(["verify", str(folder)]) == 1
    assert "not verified: files" in capsys.readouterr().out


def test_verify_on_its_base(folder: Path, tiny_pipe_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(folder), "--pretrained_model_name_or_path", str(tiny_pipe_folder)]) == 0
    assert "verified" in capsys.readouterr().out


def test_list_shows_words_whole(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["list", "embedded"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    (found,) = (line.split() for line in lines if "church-advunlearn" in line)
    assert found[:-1] == ["embedded/church-advunlearn", "advunlearn", "church", "text_encoder", "yes"]
    shipped = embedded_erasures()["embedded/church-advunlearn"]
    assert found[-1] == load_artifact(shipped).digest[:8]


def test_list_shows_a_long_folder_and_all_beside_it(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    long = folder.rename(folder.parent / ("church-" * 12))
    assert main(["list", str(folder.parent)]) == 0
    (found,) = (line.split() for line in capsys.readouterr().out.splitlines() if "church-church" in line)
    assert (found[0], found[-1]) == (long.name, load_artifact(long).digest[:8])


def test_list_finds_artifacts_below(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", str(folder.parent)]) == 0
    shown = capsys.readouterr().out
    assert "church" in shown
    assert "test" in shown
    (folder / "erasure_config.json").write_text("{")
    main(["list", str(folder.parent)])
    assert "unreadable" in capsys.readouterr().out
    (folder / "erasure_config.json").unlink()
    main(["list", str(folder.parent)])
    assert "no artifacts" in capsys.readouterr().out
    assert main(["list", str(folder / "missing")]) == 2
