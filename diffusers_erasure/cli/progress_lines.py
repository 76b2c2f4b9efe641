"""Progress where no bar can move: a log file gets a line every half minute.

A job that ends sooner writes nothing. Time left is told from the job's own pace, so a run that goes on where
it was stopped counts from there.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

EVERY = 30.0
"""Seconds between two lines of a job."""


@dataclass
class _Job:
    """Where a job stood when it was first heard of, when it last had a line, and where it stands."""

    began: float
    first: int
    total: int
    written: float
    done: int


@dataclass
class ProgressLines:
    """Writes how far jobs are.

    Attributes:
        write: Takes a line.
        clock: Seconds that only grow.
    """

    write: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    _jobs: dict[str, _Job] = field(default_factory=dict)

    def report(self, name: str, done: int, total: int, what: str = "") -> None:
        """Hear how far a job is, as often as one likes.

        Args:
            name: Of the job; with less done, or another total, it counts as a new one.
            done: What is finished.
            total: What there is to do.
            what: More about it.
        """
        now = self.clock()
        job = self._jobs.get(name)
        if job is None or done < job.done or total != job.total:
            self._jobs[name] = _Job(now, done, total, now, done)
            return
        job.done = done
        if now - job.written < EVERY:
            return
        job.written = now
        spent = now - job.began
        text = ": ".join(part for part in (name, what) if part)
        line = f"{text}: {done} of {total}, {_minutes(spent)}"
        if done > job.first:
            line += f", about {_minutes(spent * (total - done) / (done - job.first))} left"
        self.write(line)


def _minutes(seconds: float) -> str:
    """`0:42`, `12:05` or `1:00:00`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
