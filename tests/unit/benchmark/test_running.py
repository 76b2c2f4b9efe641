"""Running cells: nothing twice, nothing lost, nobody in each other's way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from diffusers_erasure.benchmark import running
from diffusers_erasure.benchmark.cells import Cell
from diffusers_erasure.benchmark.running import Runner, spread
from diffusers_erasure.benchmark.variants import BY_SLUG
from diffusers_erasure.claiming import CAN_LOCK, claimed

ATTACKS = ("unlearndiffatk", "random_tokens")
STEPS = ["train", "evaluate", *ATTACKS]
locking = pytest.mark.skipif(not CAN_LOCK, reason="this system has no such locks")

STAND_IN = """
import pathlib, sys, time
name, words = sys.argv[1], sys.argv[2:]
said = dict(zip(words[::1], words[1::1]))
step = said.get("--attack", name)
folder = pathlib.Path(said["--output_dir"])
here = pathlib.Path(__file__).parent
with open(here / "began", "a") as file:
    file.write(f"{folder.parent.name} {step}\\n")
time.sleep(float((here / "seconds").read_text()) if (here / "seconds").exists() else 0)
if (here / "bad").exists() and folder.parent.name in (here / "bad").read_text():
    sys.exit(f"{step} is bad")
folder.mkdir(parents=True, exist_ok=True)
names = {"train": "erasure_config.json", "evaluate": "evaluation.json"}
(folder / names.get(step, "attack.json")).write_text("{}")
print("finished", step)
"""


@pytest.fixture
def program(tmp_path: Path) -> tuple[str, str]:
    """A command that leaves what the real one leaves, and says when it began."""
    file = tmp_path / "stand_in.py"
    file.write_text(textwrap.dedent(STAND_IN))
    return sys.executable, str(file)


def cells(folder: Path, *slugs: str) -> list[Cell]:
    return [Cell(BY_SLUG[slug], "church", 0, folder / "work", ATTACKS, 4) for slug in slugs]


def began(folder: Path) -> list[str]:
    file = folder / "began"
    return file.read_text().splitlines() if file.exists() else []


def test_every_step_runs_once_and_a_second_run_has_nothing_to_do(
    tmp_path: Path, program: tuple[str, str]
) -> None:
    every = cells(tmp_path, "uce", "esd")
    said: list[str] = []
    assert Runner(every, said.append, program).run() == 0
    assert began(tmp_path) == [f"{slug}-0 {step}" for slug in ("uce", "esd") for step in STEPS]
    assert all(cell.finished for cell in every)
    assert set(every[0].seconds) == set(STEPS)
    assert said[0].startswith("church, UCE, training seed 0: train (0 of 2 cells done, about ")
    assert Runner(every, said.append, program).run() == 0
    assert len(began(tmp_path)) == 8


def test_a_failed_cell_is_named_and_does_not_stop_the_others(
    tmp_path: Path, program: tuple[str, str]
) -> None:
    every = cells(tmp_path, "uce", "esd")
    (tmp_path / "bad").write_text("uce-0")
    runner = Runner(every, lambda _: None, program)
    assert runner.run() == 0
    (failure,) = runner.failures
    assert (failure.cell, failure.step) == (every[0], "train")
    assert "train is bad" in failure.log.read_text()
    assert str(failure.log) in str(failure)
    assert [cell.finished for cell in every] == [False, True]
    (tmp_path / "bad").unlink()
    again = Runner(every, lambda _: None, program)
    again.run()
    assert every[0].finished
    assert not again.failures
    assert "train" not in every[0].seconds  # it did not run in one go
    assert "evaluate" in every[0].seconds


def test_a_run_that_is_asked_to_stop_keeps_what_is_finished(tmp_path: Path, program: tuple[str, str]) -> None:
    every = cells(tmp_path, "uce")
    (tmp_path / "seconds").write_text("0")
    Runner(every, lambda _: None, program).run()
    every[0].attack("random_tokens").unlink()
    (tmp_path / "seconds").write_text("60")

    def ask() -> None:
        while len(began(tmp_path)) < 5:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=ask, daemon=True).start()
    started = time.monotonic()
    runner = Runner(every, lambda _: None, program)
    assert runner.run() == signal.SIGTERM
    assert time.monotonic() - started < 30
    assert not runner.failures
    assert [step.finished for step in every[0].steps()] == [True, True, True, False]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_training_that_left_a_checkpoint_is_gone_on_with(tmp_path: Path, program: tuple[str, str]) -> None:
    (cell,) = cells(tmp_path, "esd")
    (cell.folder / "artifact-training" / "checkpoint-40").mkdir(parents=True)
    Path(program[1]).write_text(Path(program[1]).read_text() + "print(words)\n")
    Runner([cell], lambda _: None, program).run()
    assert "'--resume_from_checkpoint', 'latest'" in cell.log("train").read_text()
    assert "resume" not in cell.log("evaluate").read_text()


@locking
def test_cells_that_somebody_holds_are_left_to_them(tmp_path: Path, program: tuple[str, str]) -> None:
    every = cells(tmp_path, "uce", "esd")
    with claimed(every[0].folder) as held:
        assert held is not None
        Runner(every, lambda _: None, program).run()
    assert {line.split()[0] for line in began(tmp_path)} == {"esd-0"}


@locking
def test_two_runs_share_the_work_and_do_nothing_twice(tmp_path: Path, program: tuple[str, str]) -> None:
    every = cells(tmp_path, "uce", "esd", "esd-u", "trce")
    (tmp_path / "seconds").write_text("0.05")
    Runner(every, lambda _: None, program, jobs=3).run()
    assert sorted(began(tmp_path)) == sorted(f"{cell.folder.name} {step}" for cell in every for step in STEPS)


@locking
def test_the_lock_of_a_killed_process_holds_nobody_up(tmp_path: Path) -> None:
    """It holds as long as the command lives that inherited it, and no longer."""
    code = f"""
import pathlib, subprocess, sys, time
from diffusers_erasure.claiming import claimed
with claimed(pathlib.Path({str(tmp_path)!r})) as held:
    words = [sys.executable, "-c", "import time; time.sleep(60)"]
    child = subprocess.Popen(words, pass_fds=(held,), stdout=subprocess.DEVNULL)
    print(child.pid, flush=True)
    time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    process.kill()
    process.wait()
    process.stdout.close()
    with claimed(tmp_path) as held:
        assert held is None
    os.kill(child, signal.SIGKILL)
    deadline = time.monotonic() + 10
    free = False
    while not free and time.monotonic() < deadline:
        with claimed(tmp_path) as held:
            free = held is not None
        time.sleep(0.05)
    assert free


def test_a_shard_begins_with_its_part_and_helps_with_the_rest(tmp_path: Path) -> None:
    every = cells(tmp_path, "uce", "esd", "esd-u", "trce")
    assert [cell.variant.slug for cell in spread(every, 1, 2)] == ["esd", "trce", "uce", "esd-u"]
    assert spread(every, 0, 1) == every


def test_time_left_is_told_from_steps_of_the_same_name(tmp_path: Path) -> None:
    done, missing = cells(tmp_path, "uce", "esd")
    for step in done.steps():
        step.done.parent.mkdir(parents=True)
        step.done.write_text("{}")
        done.note_seconds(step.name, 10)
    (train, *_) = missing.steps()
    train.done.parent.mkdir(parents=True)
    train.done.write_text("{}")
    assert Runner([done, missing], lambda _: None, jobs=2).seconds_left() == pytest.approx(15)


def test_windows_hands_ctrl_c_to_the_commands_itself(
    tmp_path: Path, program: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There, no SIGINT can be sent: whoever shares the console hears Ctrl-C. Here, the command just ends."""

    class WindowsPopen(subprocess.Popen[bytes]):
        def send_signal(self, sig: int) -> None:
            if sig != signal.SIGTERM:
                raise ValueError(f"Unsupported signal: {sig}")
            super().send_signal(sig)

    monkeypatch.setattr(running, "SHARED_CONSOLE", True)
    monkeypatch.setattr(subprocess, "Popen", WindowsPopen)
    (tmp_path / "seconds").write_text("1")

    def ask() -> None:
        while not began(tmp_path):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=ask, daemon=True).start()
    (cell,) = cells(tmp_path, "uce")
    runner = Runner([cell], lambda _: None, program)
    assert runner.run() == signal.SIGINT
    assert began(tmp_path) == ["uce-0 train"]
    assert [step.finished for step in cell.steps()] == [True, False, False, False]
    assert not runner.failures
