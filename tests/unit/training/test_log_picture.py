"""The log that every run keeps, and its picture."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from PIL import Image

from diffusers_erasure.training import log_picture
from diffusers_erasure.training.log_picture import draw_log, read_log, smoothed

from .toy import AtStep, train


def log_of(folder: Path, rows: list[dict[str, float]]) -> Path:
    path = folder / "run.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def size_of(picture: Path) -> tuple[int, int]:
    with Image.open(picture) as found:
        return found.size


def test_a_log_is_read_by_number(tmp_path: Path) -> None:
    rows = [
        {"step": 1, "loss": 2.0},
        {"step": 2, "loss": float("nan"), "score": 0.5},
        {"step": 3, "loss": 1.0},
    ]
    loss, score = read_log(log_of(tmp_path, rows))
    assert (loss.name, loss.steps, loss.values) == ("loss", (1, 3), (2.0, 1.0))
    assert (score.name, score.steps) == ("score", (2,))


def test_smoothing_is_centred() -> None:
    line = [2.0 * place + 1 for place in range(100)]
    assert smoothed(line) == pytest.approx(line)
    noise = [float(place % 2) for place in range(100)]
    assert max(abs(value - 0.5) for value in smoothed(noise)[5:-5]) < 0.1
    assert smoothed([1.0, 5.0]) == [1.0, 5.0]


def test_numbers_that_move_get_panels(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    still = [{"step": step, "rate": 0.1} for step in range(1, 4)]
    assert draw_log(log_of(tmp_path, still)) is None
    assert draw_log(tmp_path / "none.jsonl") is None
    rows = [{"step": step, "rate": 0.1, "loss": 10.0**-step, "omega": 0.1 * step} for step in range(1, 5)]
    place = draw_log(log_of(tmp_path, rows))
    assert place == tmp_path / "run.png"
    two = size_of(place)
    place = draw_log(
        log_of(tmp_path, [{**row, **{f"n{i}": row["step"] + i for i in range(3)}} for row in rows])
    )
    assert place is not None
    wider = size_of(place)
    assert wider[0] > two[0]
    assert wider[1] > two[1]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_every_run_with_a_folder_keeps_and_draws_its_log(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    logs = tmp_path / "run-training" / "logs"
    seen: list[bool] = []
    train(tmp_path / "run", AtStep(7, lambda: seen.append((logs / "diffusers-erasure.png").is_file())))
    assert seen == [True]  # drawn at the checkpoint after step 5
    assert sorted(path.name for path in logs.iterdir()) == [
        "diffusers-erasure.jsonl",
        "diffusers-erasure.png",
    ]
    (loss, *_) = read_log(logs / "diffusers-erasure.jsonl")
    assert loss.steps == tuple(range(1, 13))


def test_without_matplotlib_it_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(log_picture, "find_spec", lambda _name: None)
    monkeypatch.setattr(log_picture, "_said", [])
    with caplog.at_level(logging.WARNING):
        train(tmp_path / "run")
    assert [one for one in caplog.messages if "matplotlib" in one] == [
        "the log of the run is not drawn: it needs matplotlib, from diffusers-erasure[eval]"
    ]
    assert not list((tmp_path / "run-training" / "logs").glob("*.png"))


def test_a_picture_that_cannot_be_drawn_loses_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("matplotlib")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(log_picture, "_draw", full)
    _, outcome = train(tmp_path / "run")
    assert outcome.steps == 12
    assert "is not drawn: [Errno 28] No space left on device" in caplog.text
