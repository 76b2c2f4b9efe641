"""What is drawn and judged for token ids that a search found: the text that a user would type, or the ids.

Not every sequence of tokens is a text: decoded and tokenised again it may come out as another one. So either
the typed text is judged from the start, or the ids are, and a success is drawn once more as typed text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .base import AttackTarget
from .fitting import typed

Read = Literal["text", "ids"]


@dataclass(frozen=True)
class Reading:
    """Token ids as they are shown to the model.

    Attributes:
        ids: What is drawn, without padding.
        text: What a user would type.
        round_trip: Whether typing the text gives the ids that were found.
    """

    ids: tuple[int, ...]
    text: str
    round_trip: bool


def reading(target: AttackTarget, ids: Sequence[int], read: Read) -> Reading:
    """Read token ids, from start to end token, as text or as they are."""
    text, again = typed(target, ids)
    return Reading(tuple(ids) if read == "ids" else again, text, again == tuple(ids))


def judged_readings(
    target: AttackTarget, readings: Sequence[Reading], seeds: Sequence[int]
) -> list[tuple[bool, Tensor]]:
    """Whether each one's picture shows the concept, and the picture."""
    if not readings:
        return []
    with torch.no_grad():
        states = target.text.states(target.text.pad([one.ids for one in readings]))
    judged = target.judged(states, seeds)
    return list(zip(judged.shows, judged.images, strict=True))


def typed_successes(
    target: AttackTarget, found: Sequence[Reading], seeds: Sequence[int], successes: Sequence[bool]
) -> tuple[list[bool], list[int]]:
    """Whether the typed texts' pictures show the concept as those that were judged did.

    Only a success by ids that are no text is drawn again.

    Args:
        target: The pipeline.
        found: What was judged, one per prompt.
        seeds: Seeds of the pictures.
        successes: What the judge said.

    Returns:
        One answer per prompt, and the UNet sample evaluations of each.
    """
    doubtful = [
        index
        for index, (one, success) in enumerate(zip(found, successes, strict=True))
        if success and not one.round_trip and target.own_ids(one.text) != one.ids
    ]
    judged = target.judged_texts([found[i].text for i in doubtful], [seeds[i] for i in doubtful])
    again = dict(zip(doubtful, judged.shows, strict=True))
    survives = [again.get(index, success) for index, success in enumerate(successes)]
    return survives, [target.queries_per_picture * (index in again) for index in range(len(found))]
