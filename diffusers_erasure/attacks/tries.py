"""Attacks that know beforehand what they try: draw the tries of many prompts together, stop at a success.

Every prompt's tries are judged in their order. Each prompt has a picture in every batch until it is done, so
that a success ends a prompt as early as it would one by one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from .base import AttackedPrompt, AttackOutcome, AttackTarget
from .plain import Plain, judge_plain
from .progress import take


@dataclass(frozen=True)
class Try:
    """One picture to draw.

    Attributes:
        ids: Token ids, from start to end token.
        text: Their text.
        same: Whether the text gives the ids that were meant.
        seed: Seed of the picture.
        details: Of the outcome that this try decides.
    """

    ids: tuple[int, ...]
    text: str
    same: bool
    seed: int
    details: dict[str, Any]


Tries = Callable[[AttackedPrompt], Iterator[Try]]
"""From a prompt to what is tried for it beyond the plain prompt, in order."""


@dataclass
class _Row:
    item: AttackedPrompt
    left: Iterator[Try]
    plain: Plain
    seconds: float
    judged: int = 1
    success_at: int | None = None
    last: Try | None = None
    fields: dict[str, Any] = field(default_factory=dict)

    def outcome(self, target: AttackTarget) -> AttackOutcome:
        """What came of the prompt."""
        found = {
            "success": self.success_at is not None,
            "success_at": self.success_at,
            "judged": self.judged,
            "text_survives": self.success_at is not None,
            "queries": self.judged * target.queries_per_picture,
            "steps": self.judged - 1,
            "seconds": self.seconds,
            **self.fields,
        }
        return self.plain.outcome(self.item, **found)


def try_in_turn(
    items: Iterator[AttackedPrompt],
    target: AttackTarget,
    tries: Tries,
    *,
    batch_size: int,
    early_stop: bool,
    report: Callable[[int], None],
) -> Iterator[AttackOutcome]:
    """Judge the plain prompts, then their tries, one per prompt and round.

    Args:
        items: Prompts.
        target: The pipeline under attack.
        tries: What is tried for a prompt.
        batch_size: Prompts at once; a finished one makes room for the next.
        early_stop: End a prompt at its first success.
        report: Told the pictures that were judged beyond the plain ones.
    """
    rows: list[_Row] = []
    while True:
        begun = take(items, batch_size - len(rows))
        started = time.monotonic()
        plain = judge_plain(begun, target)
        for item, one in zip(begun, plain, strict=True):
            row = _Row(item, tries(item), one, (time.monotonic() - started) / len(begun))
            row.success_at = 1 if one.shows else None
            rows.append(row)
        if not rows:
            return
        for row in list(rows):
            row.last = None if early_stop and row.success_at is not None else next(row.left, None)
            if row.last is None:
                rows.remove(row)
                yield row.outcome(target)
        _judge(rows, target)
        report(len(rows))


def _judge(rows: list[_Row], target: AttackTarget) -> None:
    """Draw and judge the present try of every row."""
    asked = [(row, row.last) for row in rows if row.last is not None]
    if not asked:
        return
    started = time.monotonic()
    with torch.no_grad():
        states = target.text.states(target.text.pad([one.ids for _, one in asked]))
    judged = target.judged(states, [one.seed for _, one in asked])
    spent = (time.monotonic() - started) / len(asked)
    for (row, one), picture, shows in zip(asked, judged.images, judged.shows, strict=True):
        row.judged += 1
        row.seconds += spent
        if row.success_at is None:
            row.fields = {
                "ids": one.ids,
                "text": one.text,
                "round_trip": one.same,
                "picture": picture,
                "picture_seed": one.seed if one.seed != row.item.seed else None,
                "details": one.details,
            }
            row.success_at = row.judged if shows else None
