"""Run what is missing of the cells, several at a time, and stop without losing a finished step.

Each worker takes the next cell that is not finished and that nobody holds (`diffusers_erasure.claiming`), so
any number of processes and machines with one file system can share a work folder; where there are no locks,
only by `--shard`. A cell whose step fails is left, told with its log, and not tried again by this run or by
others that are running; the other cells go on. The next run tries it again.

SIGTERM and Ctrl-C are handed to the commands that are running: a training finishes its step and saves, an
attack keeps its finished prompts, and the next run goes on from there.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from types import FrameType, MappingProxyType

from diffusers_erasure.claiming import claimed

from .cells import TRAIN, Cell, Step

PROGRAM = (sys.executable, "-m", "diffusers_erasure")
ENVIRONMENT: Mapping[str, str] = MappingProxyType(
    {
        "OMP_NUM_THREADS": "1",  # cells run side by side; small matrices are not worth sharing
        "MALLOC_MMAP_THRESHOLD_": str(2**30),  # glibc keeps a tensor's pages for the next one: a seventh of
        "MALLOC_TRIM_THRESHOLD_": str(2**30),  # the time of a UNet evaluation went into getting them back
    }
)
"""What a step's process is given unless it is set."""
FAILED = "failed"
POLL = 0.2
"""Seconds between looks at a command that is running."""
SHARED_CONSOLE = os.name == "nt"
"""Whether Ctrl-C reaches the commands without our help, and no signal but SIGTERM, which ends them, can."""
GUESSED = 150.0
"""Seconds that a step is thought to take as long as none of its name is finished."""


@dataclass(frozen=True)
class Failure:
    """A step that ended without its result.

    Attributes:
        cell: Whose it was.
        step: Its name.
        log: What it said.
    """

    cell: Cell
    step: str
    log: Path

    def __str__(self) -> str:
        """For a person."""
        return f"{self.cell}: {self.step} failed; its log is {self.log}"


@dataclass
class Runner:
    """Runs cells.

    Attributes:
        cells: All of them, in order; the first that are free are taken first.
        say: Takes a line about what goes on.
        program: What stands before a step's command.
        jobs: Cells at a time.
        failures: What failed.
    """

    cells: Sequence[Cell]
    say: Callable[[str], None]
    program: Sequence[str] = PROGRAM
    jobs: int = 1
    failures: list[Failure] = field(default_factory=list)
    _asked: int = 0
    _began: float = field(default_factory=time.time)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _children: set[subprocess.Popen[bytes]] = field(default_factory=set)
    _left: set[Path] = field(default_factory=set)

    def run(self) -> int:
        """Work until every cell is finished, failed or held by somebody else; the signal that asked to stop.

        Must be called from the main thread, which alone hears signals.
        """
        with _heard(self.stop), ThreadPoolExecutor(self.jobs) as pool:
            for worker in [pool.submit(self._work) for _ in range(self.jobs)]:
                worker.result()
        return self._asked

    def stop(self, number: int, _frame: FrameType | None = None) -> None:
        """Ask the running commands to stop, and begin no other."""
        self._asked = number
        for child in tuple(self._children):
            if not (SHARED_CONSOLE and number == signal.SIGINT):  # else it has heard Ctrl-C itself
                child.send_signal(number)

    def seconds_left(self) -> float:
        """Wall seconds that the missing steps will take, from what steps of the same name took."""
        taken: dict[str, list[float]] = {}
        for cell in self.cells:
            for name, seconds in cell.seconds.items():
                taken.setdefault(_kind(cell, name), []).append(seconds)
        missing = [
            _kind(cell, step.name) for cell in self.cells for step in cell.steps() if not step.finished
        ]
        return sum(median(taken.get(kind, [GUESSED])) for kind in missing) / self.jobs

    def _work(self) -> None:
        while not self._asked and (cell := self._next()) is not None:
            with claimed(cell.folder) as held:
                if held is not None and not self._failed(cell):
                    self._run_cell(cell, held)

    def _next(self) -> Cell | None:
        """The next cell that this run has not looked at."""
        with self._lock:
            for cell in self.cells:
                if cell.folder not in self._left:
                    self._left.add(cell.folder)
                    if not cell.finished:
                        return cell
        return None

    def _failed(self, cell: Cell) -> bool:
        """Whether another run that is going on has failed on it."""
        mark = cell.folder / FAILED
        return mark.is_file() and mark.stat().st_mtime > self._began

    def _run_cell(self, cell: Cell, held: int) -> None:
        (cell.folder / FAILED).unlink(missing_ok=True)
        for step in cell.steps():
            if self._asked:
                return
            if step.finished:
                continue
            self.say(f"{cell}: {step.name}{self._how_far()}")
            self._run_step(cell, step, held)
            if not step.finished and not self._asked:
                (cell.folder / FAILED).write_text(f"{step.name}\n", encoding="utf-8")
                failure = Failure(cell, step.name, cell.log(step.name))
                self.failures.append(failure)
                self.say(str(failure))
                return

    def _how_far(self) -> str:
        done = sum(cell.finished for cell in self.cells)
        return f" ({done} of {len(self.cells)} cells done, about {_hours(self.seconds_left())} left)"

    def _run_step(self, cell: Cell, step: Step, held: int) -> None:
        """One command with a log of its own; how long it took is kept if it ran in one go."""
        log = cell.log(step.name)
        in_one_go, began = not log.exists(), time.perf_counter()
        command = [*self.program, *step.command, *_resumed(step)]
        with log.open("ab") as stream:
            child = subprocess.Popen(
                command,
                stdout=stream,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**ENVIRONMENT, **os.environ},
                start_new_session=True,
                pass_fds=(held,) if os.name == "posix" else (),
            )
            self._children.add(child)
            if self._asked:
                child.send_signal(signal.SIGTERM if SHARED_CONSOLE else self._asked)
            while child.poll() is None:
                time.sleep(POLL)
            self._children.discard(child)
        if step.finished and in_one_go:
            cell.note_seconds(step.name, time.perf_counter() - began)


def spread(cells: Sequence[Cell], shard: int, of: int) -> list[Cell]:
    """Every cell, those of a part first: what is left of other parts is done when its own is.

    Args:
        cells: All of them.
        shard: Which part, from 0 on.
        of: How many there are.
    """
    own = list(cells[shard::of])
    return own + [cell for index, cell in enumerate(cells) if index % of != shard]


def _resumed(step: Step) -> list[str]:
    """Flags by which a training that was stopped goes on."""
    if step.name != TRAIN:
        return []
    artifact = step.done.parent
    kept = artifact.with_name(f"{artifact.name}-training").glob("checkpoint-*")
    return ["--resume_from_checkpoint", "latest"] if any(kept) else []


def _kind(cell: Cell, step: str) -> str:
    return f"{cell.variant.slug} {step}" if step == TRAIN else step


def _hours(seconds: float) -> str:
    """`0:05` or `12:30`, hours and minutes."""
    return f"{int(seconds) // 3600}:{int(seconds) % 3600 // 60:02} h"


@contextmanager
def _heard(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Hand SIGTERM and SIGINT to a handler."""
    before = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
