"""`diffusers-erasure train esd`, called in the process."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from diffusers_erasure.artifacts.manifest import parse_manifest
from diffusers_erasure.cli import console
from diffusers_erasure.cli import train as command
from diffusers_erasure.errors import ConfigError
from diffusers_erasure.training import TrainingStopped, method
from diffusers_erasure.training.esd_settings import ESDConfig

SHORT = ["--max_train_steps", "3", "--num-inference-steps", "4", "--learning_rate", "1e-3"]


def arguments(pipe: Path, folder: Path, *more: str) -> list[str]:
    place = ["--output_dir", str(folder), "--pretrained_model_name_or_path", str(pipe)]
    return ["esd", "--concept", "dog", *place, *SHORT, *more]


def test_it_trains_and_saves_an_artifact(
    tiny_pipe_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(arguments(tiny_pipe_folder, tmp_path / "dog", "--report_to", "jsonl")) == 0
    manifest = parse_manifest((tmp_path / "dog" / "erasure_config.json").read_bytes(), origin="test")
    assert (manifest.method, manifest.steps) == ("esd", 3)
    assert manifest.settings["preset"].value == "paper"
    shown = capsys.readouterr().out
    for word in ("loss", "moved", "seconds per step", "saved"):
        assert word in shown
    beside = sorted(path.name for path in (tmp_path / "dog-training").iterdir())
    assert beside == [".claimed", "checkpoint-3", "logs"]


def test_a_stopped_command_goes_on(
    tiny_pipe_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown: list[str] = []

    class Bar:
        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            """Nothing is open."""

        def __call__(self, done: int, total: int, what: str) -> None:
            shown.append(f"{what} of {total}")
            if what.startswith("train") and done == 2 and stop:
                os.kill(os.getpid(), signal.SIGTERM)

    stop = True
    monkeypatch.setattr(console, "progress", lambda name: Bar())
    given = arguments(tiny_pipe_folder, tmp_path / "dog", "--max_train_steps=5")
    with pytest.raises(TrainingStopped) as stopped:
        command.main(given)
    assert stopped.value.code == 143
    assert not (tmp_path / "dog").exists()
    stop = False
    assert command.main([*given, "--resume_from_checkpoint", "latest"]) == 0
    assert (tmp_path / "dog" / "erasure_config.json").is_file()
    said = " ".join(capsys.readouterr().out.split())
    assert re.search(r"UNet evaluations \d+ since it was resumed at step [1-4]\b", said)
    assert any("loss" in what and "of 5" in what and "seconds per step" in what for what in shown)


@pytest.mark.parametrize(
    ("flags", "steps", "rate", "eta"),
    [
        (["--preset", "code"], 200, 5e-5, 2.0),
        (["--preset=paper"], 1000, 1e-5, 1.0),
        (["--preset", "code", "--max-train-steps", "7"], 7, 5e-5, 2.0),
        (["--pretrained_model_name_or_path", "some/model"], 1000, 1e-5, 1.0),
    ],
)
def test_presets_are_defaults(flags: list[str], steps: int, rate: float, eta: float) -> None:
    config = command.parse(method("esd"), ["--concept", "dog", *flags])
    assert type(config) is ESDConfig
    assert (config.max_train_steps, config.learning_rate, config.negative_guidance) == (steps, rate, eta)


def test_without_a_base_the_embedded_pipelines_preset_is_taken() -> None:
    config = command.parse(method("esd"), ["--concept", "dog"])
    assert config == ESDConfig(concept=("dog",))
    assert isinstance(config, ESDConfig)
    assert config.preset == "embedded"


def test_help_shows_the_presets_values(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["esd", "--preset", "code", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"--{name}" in shown for name in ESDConfig.model_fields)
    assert "5e-05" in shown


def test_an_unknown_preset_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"no preset 'papper'; known presets are auto, paper"):
        command.parse(method("esd"), ["--concept", "dog", "--preset", "papper"])
