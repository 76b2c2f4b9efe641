"""Prompts to train on, to tune on and to test on, and the proof that no test prompt was trained on.

Two prompts count as the same if they are equal after case, punctuation, articles and blanks are taken away,
or if nearly all of their letters agree (a typing error, a plural). The same words in another order are
another wording, which is what a test split is about.
Every list has a sha256, so that a reader can tell whether two reports asked the same questions.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

from pydantic import Field

from diffusers_erasure.concepts import Concept, ConceptKind, ConceptSet
from diffusers_erasure.errors import EvaluationError
from diffusers_erasure.prompts import RETAIN_SETS, World, erasure_pairs, retain_set_prompts

from .records import Record

logger = logging.getLogger(__name__)

NEAR = 0.95
"""Share of agreeing letters (Ratcliff and Obershelp) from which two prompts are near duplicates."""
SHOWN = 3
_ARTICLES = frozenset({"a", "an", "the"})


class SplitRecord(Record):
    """One list of prompts."""

    name: str
    prompts: int = Field(ge=0)
    sha256: str


@dataclass(frozen=True)
class Duplicate:
    """A test prompt that training saw, or nearly so."""

    test: str
    train: str


def normalise(prompt: str) -> str:
    """A prompt without case, punctuation, articles and superfluous blanks."""
    words = re.findall(r"\w+", prompt.casefold())
    return " ".join(word for word in words if word not in _ARTICLES)


def split_record(name: str, prompts: Iterable[str]) -> SplitRecord:
    """Number and digest of a list of prompts; their order does not matter."""
    rows = sorted(set(prompts))
    return SplitRecord(
        name=name, prompts=len(rows), sha256=hashlib.sha256(json.dumps(rows).encode()).hexdigest()
    )


def duplicates(test: Iterable[str], train: Iterable[str]) -> list[Duplicate]:
    """Test prompts that also occur in training, exactly or nearly.

    Args:
        test: Prompts of the test split.
        train: Prompts that a method was trained, or a setting tuned, on.
    """
    seen: dict[str, str] = {}
    for prompt in train:
        seen.setdefault(normalise(prompt), prompt)
    seen.pop("", None)
    found = []
    for prompt in dict.fromkeys(test):
        text = normalise(prompt)
        twin = seen.get(text) or _near(text, seen)
        if twin is not None and text:
            found.append(Duplicate(prompt, twin))
    return found


def _near(text: str, seen: Mapping[str, str]) -> str | None:
    matcher = SequenceMatcher(b=text, autojunk=False)
    for other, prompt in seen.items():
        matcher.set_seq1(other)
        if matcher.real_quick_ratio() >= NEAR and matcher.quick_ratio() >= NEAR and matcher.ratio() >= NEAR:
            return prompt
    return None


def check_disjoint(test: Iterable[str], train: Iterable[str]) -> None:
    """Refuse to measure on prompts that were trained on.

    Raises:
        EvaluationError: A test prompt occurs in training, exactly or nearly.
    """
    found = duplicates(test, train)
    if found:
        shown = "; ".join(f"{one.test!r} was trained as {one.train!r}" for one in found[:SHOWN])
        raise EvaluationError(
            f"{len(found)} test prompts occur in the training prompts ({shown}); expected none, or the "
            "figures would show what was learned by heart; take them out of training, or test "
            "with other prompts"
        )


def training_prompts(concepts: Sequence[Any], settings: Mapping[str, Any]) -> tuple[str, ...]:
    """What a method may have been trained on: our training wordings, and every prompt its settings name.

    Args:
        concepts: The manifest's records of what was erased.
        settings: The manifest's settings, whose values may be lists of prompts.
    """
    erased = ConceptSet(concepts=tuple(_concept(record) for record in concepts))
    names = {word for concept in erased for part in concept.walk() for word in part.words}
    prompts: dict[str, None] = {}
    worlds: tuple[World, ...] = ("embedded", "general")
    for world in worlds:
        for pair in erasure_pairs(erased, world=world):
            prompts.update(dict.fromkeys((pair.source, pair.target)))
        for name in RETAIN_SETS:
            prompts.update(dict.fromkeys(retain_set_prompts(name, world=world)))
    for setting in settings.values():
        value = getattr(setting, "value", setting)
        if isinstance(value, list | tuple):
            prompts.update(dict.fromkeys(text for text in value if isinstance(text, str)))
    return tuple(prompt for prompt in prompts if prompt and prompt not in names)


def _concept(record: Any) -> Concept:
    return Concept(
        name=record.name,
        kind=ConceptKind(record.kind),
        synonyms=tuple(record.synonyms),
        anchor=record.anchor,
        members=tuple(_concept(member) for member in record.members),
    )


def note_test_read(record: SplitRecord) -> None:
    """Leave a trace in the log each time that the test split is read."""
    logger.info("test split %r is read: %d prompts, sha256 %s", record.name, record.prompts, record.sha256)
