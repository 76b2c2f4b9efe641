"""What the embedded pipeline can draw, and everyday scenes: prompts whose pictures are to stay.

The scenes are `retain.csv` beside this file, our own sentences. `retain_sets` takes from both what an erasure
may keep.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from functools import lru_cache
from importlib.resources import files

from diffusers_erasure.concepts import ConceptKind
from diffusers_erasure.embedded.vocabulary import CONCEPTS, GROUP_PHRASES, STYLES

from .pairs import subjects
from .wording import Split, fill, phrase, templates


def word_pattern(words: frozenset[str]) -> re.Pattern[str]:
    """Pattern that finds any of the words, or its plain plural, as whole words in a prompt."""
    ordered = sorted(words, key=lambda word: (-len(word), word))
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, ordered))})s?(?!\w)", re.IGNORECASE)


@lru_cache(maxsize=2)
def embedded_prompts(split: Split) -> tuple[str, ...]:
    """What the embedded pipeline can draw, whatever is erased; some prompts may be in it twice."""
    return tuple(_embedded_prompts(split))


def _embedded_prompts(split: Split) -> Iterator[str]:
    """Every word of the vocabulary, plain and in two of the styles in turn; then the groups."""
    plain = templates(ConceptKind.object, split, world="embedded")
    frames = templates(ConceptKind.style, split, world="embedded")
    number = 0
    for entry in CONCEPTS.values():
        for word in (entry.name, *entry.synonyms):
            yield plain[0].format(phrase(word))
            yield plain[1 + number % (len(plain) - 1)].format(phrase(word))
            for turn in range(2):
                style = STYLES[(2 * number + turn) % len(STYLES)]
                frame = frames[(2 * number + turn) % len(frames)]
                yield fill(frame, style, kind=ConceptKind.style, subject=phrase(word))
            number += 1
    for index, style in enumerate(STYLES):
        for offset, subject in enumerate(subjects("embedded")):
            if (index + offset) % len(STYLES) < 2:
                frame = frames[(index + offset) % len(frames)]
                yield fill(frame, style, kind=ConceptKind.style, subject=subject)
    yield from GROUP_PHRASES.values()


@lru_cache(maxsize=1)
def scene_prompts() -> tuple[str, ...]:
    """The scenes of `retain.csv`: the subject alone, in its scene, and as a photo."""
    text = files(__package__).joinpath("retain.csv").read_text(encoding="utf-8")
    rows = tuple(csv.DictReader(text.splitlines()))
    alone = [row["subject"] for row in rows]
    scenes = [f"{row['subject']} {row['scene']}" for row in rows]
    photos = [f"a photo of {row['subject']}" for row in rows if " of " not in row["subject"]]
    return (*alone, *scenes, *photos)
