"""`diffusers-erasure import`, called in the process."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

from diffusers_erasure.artifacts.manifest import parse_manifest
from diffusers_erasure.cli.main import main
from diffusers_erasure.encoders import RobustEncoder
from tests.unit.encoders.published import publish


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def command(tiny_pipe: StableDiffusionPipeline, tiny_pipe_folder: Path, tmp_path: Path) -> list[str]:
    """The command line that imports a church encoder into `tmp_path/out`."""
    publish(tiny_pipe.text_encoder, tmp_path / "pub" / "church_unlearned")
    return [
        *("import", str(tmp_path / "pub"), "--subfolder", "church_unlearned", "--concept", "church"),
        *("--pretrained_model_name_or_path", str(tiny_pipe_folder), "--output_dir", str(tmp_path / "out")),
    ]


def test_it_writes_an_artifact_and_says_what_came_of_it(
    command: list[str],
    tiny_pipe_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert main(command) == 0
    shown = capsys.readouterr().out
    weights = (tmp_path / "pub" / "church_unlearned" / "pytorch_model.bin").read_bytes()
    for words in (
        "pub/church_unlearned",
        hashlib.sha256(weights).hexdigest(),
        "advunlearn (as its makers say)",
        "32 of 36",
        "encoder layers 0-1",
        "4 tensors",
        "settings, seed and steps of the training",
        "saved",
    ):
        assert words in shown
    manifest = parse_manifest((tmp_path / "out" / "erasure_config.json").read_bytes(), origin="test")
    assert manifest.base.id == tiny_pipe_folder.name
    assert manifest.concept_names == ("church",)
    monkeypatch.chdir(tiny_pipe_folder.parent)
    assert RobustEncoder.from_pretrained(tmp_path / "out").erasure is not None


def test_inspect_says_that_it_was_imported_and_from_where(
    command: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    main(command)
    capsys.readouterr()
    assert main(["inspect", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    for words in ("advunlearn imported", "imported_from", "imported_sha256", "church_unlearned", "unknown"):
        assert words in shown
    assert "steps and seed of the training unknown" in shown
    assert "closed form" not in shown


def test_it_verifies_on_its_base(command: list[str], tiny_pipe_folder: Path, tmp_path: Path) -> None:
    main(command)
    verify = ["verify", str(tmp_path / "out"), "--pretrained_model_name_or_path", str(tiny_pipe_folder)]
    assert main(verify) == 0


def test_what_the_user_states_is_recorded(command: list[str], tmp_path: Path) -> None:
    more = ["--concept", "Van Gogh", "--concept_kind", "style", "--method", "some-paper"]
    assert main([*command, *more]) == 0
    manifest = parse_manifest((tmp_path / "out" / "erasure_config.json").read_bytes(), origin="test")
    assert [(concept.name, concept.kind) for concept in manifest.concepts] == [
        ("church", "object"),
        ("Van Gogh", "style"),
    ]
    assert [concept.anchor for concept in manifest.concepts] == ["", ""]
    assert manifest.method == "some-paper"


def test_a_folder_is_replaced_only_when_told(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command) == 0
    assert main(command) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0


def test_an_existing_folder_is_refused_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["import", "no/encoder", "--concept", "x", "--pretrained_model_name_or_path", "no/base"]
    (tmp_path / "erasure_config.json").touch()
    assert main([*arguments, "--output_dir", str(tmp_path)]) == 2
    assert "exists already" in capsys.readouterr().err


def test_faults_are_explained_and_leave_nothing(
    command: list[str],
    tiny_pipe: StableDiffusionPipeline,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    without_concept = [word for word in command if word not in ("--concept", "church")]
    assert main(without_concept) == 2
    assert "concepts is empty" in capsys.readouterr().err
    publish(tiny_pipe.text_encoder, tmp_path / "pub" / "base", lambda tensors: tensors)
    assert main([word.replace("church_unlearned", "base") for word in command]) == 2
    assert "erases nothing" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pub"]


def test_an_unlikely_base_is_warned_of(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "pub" / "church_unlearned" / "pytorch_model.bin"
    tensors = torch.load(path, weights_only=True)
    torch.save({k: v + 0.1 if v.is_floating_point() else v for k, v in tensors.items()}, path)
    assert main(command) == 0
    assert "may not be the one" in capsys.readouterr().err
