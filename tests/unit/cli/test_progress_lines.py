"""Progress in a log file: a line every half minute, and none for what is done at once."""

from __future__ import annotations

import pytest

from diffusers_erasure.cli import console, drawing
from diffusers_erasure.cli.progress_lines import EVERY, ProgressLines


class Clock:
    """Seconds that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_long_job_has_a_line_every_half_minute_with_the_time_left() -> None:
    clock, lines = Clock(), []
    told = ProgressLines(lines.append, clock)
    for second in range(0, 91):
        clock.now = float(second)
        told.report("attack", 20 + second, 320, "church")
    assert lines == [
        "attack: church: 50 of 320, 0:30, about 4:30 left",
        "attack: church: 80 of 320, 1:00, about 4:00 left",
        "attack: church: 110 of 320, 1:30, about 3:30 left",
    ]


def test_a_new_phase_of_a_job_counts_from_its_own_start() -> None:
    clock, lines = Clock(), []
    told = ProgressLines(lines.append, clock)
    told.report("train", 0, 10, "latents")
    clock.now = EVERY - 1
    told.report("train", 0, 300, "steps")
    clock.now = 2 * EVERY - 2
    told.report("train", 100, 300, "steps")
    assert lines == []
    clock.now = 2 * EVERY - 1
    told.report("train", 100, 300, "steps")
    assert lines == ["train: steps: 100 of 300, 0:30, about 1:00 left"]


def test_nothing_is_promised_before_anything_is_done() -> None:
    clock, lines = Clock(), []
    told = ProgressLines(lines.append, clock)
    told.report("load", 0, 3)
    clock.now = 3700.0
    told.report("load", 0, 3)
    assert lines == ["load: 0 of 3, 1:01:40"]


@pytest.mark.parametrize("bars", ["console", "drawing"])
def test_without_a_terminal_the_commands_write_lines(
    bars: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    for module in (console, drawing):
        monkeypatch.setattr(module, "ProgressLines", lambda write: ProgressLines(write, clock))
    if bars == "console":
        with console.progress("train") as report:
            report(0, 4, "steps")
            clock.now = EVERY
            report(1, 4, "steps")
    else:
        with drawing.progress_display() as moved:
            moved("train: steps", 0, 4)
            clock.now = EVERY
            moved("train: steps", 1, 4)
    shown = capsys.readouterr()
    assert shown.err == "train: steps: 1 of 4, 0:30, about 1:30 left\n"
    assert shown.out == ""
