"""How far an attack is, and how prompts are handed to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class AttackProgress:
    """How far a run is.

    Attributes:
        attack: Its name.
        finished: Prompts with an outcome, kept ones included.
        total: Prompts of this run.
        successes: Successes among the finished ones.
        work: Steps that are done; those that an early success saved count as done.
        total_work: Steps of all prompts; `1 - work / total_work` is left.
        seconds: Wall time so far.
    """

    attack: str
    finished: int
    total: int
    successes: int
    work: int
    total_work: int
    seconds: float

    @property
    def fraction(self) -> float:
        """Share of the work that is done, in [0, 1]."""
        return min(1.0, self.work / self.total_work) if self.total_work else 1.0


AttackProgressCallback = Callable[[AttackProgress], None]


def silent(progress: AttackProgress) -> None:
    """The callback of those who do not want to watch."""
    del progress


def take(items: Iterator[Item], count: int) -> list[Item]:
    """The next items, at most `count`; fewer or none at the end."""
    return list(islice(items, count))
