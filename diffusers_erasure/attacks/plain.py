"""The plain prompt's picture, which every attack judges first."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .base import AttackedPrompt, AttackOutcome, AttackTarget


@dataclass(frozen=True)
class Plain:
    """What the judge says without an attack.

    Attributes:
        ids: The prompt's token ids.
        shows: Whether its picture shows the concept.
        picture: `(3, height, width)`, uint8.
        queries: UNet sample evaluations of the picture.
    """

    ids: tuple[int, ...]
    shows: bool
    picture: Tensor
    queries: int

    def outcome(self, item: AttackedPrompt, **found: Any) -> AttackOutcome:
        """The outcome of a prompt that is not, or need not be, attacked any further.

        Args:
            item: The prompt.
            found: Further fields of the outcome.
        """
        values: dict[str, Any] = {
            "success": self.shows,
            "success_at": 1 if self.shows else None,
            "judged": 1,
            "ids": self.ids,
            "text": item.prompt,
            "round_trip": True,
            "text_survives": self.shows,
            "queries": self.queries,
            "picture": self.picture,
        }
        return AttackOutcome(item, **{**values, **found})


def judge_plain(items: Sequence[AttackedPrompt], target: AttackTarget) -> list[Plain]:
    """Draw and judge the plain prompts, each with its own seed."""
    ids = [target.own_ids(item.prompt) for item in items]
    judged = target.judged_texts([item.prompt for item in items], [item.seed for item in items])
    return [
        Plain(row, shows, picture, target.queries_per_picture)
        for row, shows, picture in zip(ids, judged.shows, judged.images, strict=True)
    ]


def screen(
    batch: Sequence[AttackedPrompt], target: AttackTarget
) -> tuple[list[AttackOutcome], list[tuple[AttackedPrompt, Plain]]]:
    """Judge plain prompts, and part those that show the concept already from those that must be attacked.

    Returns:
        Outcomes of the former, and the latter with what the judge saw.
    """
    started = time.monotonic()
    judged = list(zip(batch, judge_plain(batch, target), strict=True))
    seconds = (time.monotonic() - started) / max(1, len(batch))
    done = [plain.outcome(item, seconds=seconds) for item, plain in judged if plain.shows]
    return done, [(item, plain) for item, plain in judged if not plain.shows]
