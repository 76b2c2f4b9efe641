"""Things drawn in many styles, the style spoken of first as often as last: what stays where a style goes.

An adversary of prompts puts its tokens at the front. An encoder that is trained against it, and retains
styles at the end of sentences only, learns to hear no style at the front: others go with the erased one. So
the `styles` set speaks of them in both places.

The styles are the embedded vocabulary's, or our own list `styles.csv` beside this file. Its columns:

    style      as it stands in a prompt
    group      `movement`, `medium` (what it is made with) or `artist` (all dead for over seventy years)
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from functools import lru_cache
from importlib.resources import files

from diffusers_erasure.concepts import ConceptKind
from diffusers_erasure.embedded.vocabulary import CONCEPTS, STYLES, with_article

from .nouns import nouns
from .wording import Split, World, fill, phrase, templates

_FIRST = ("{}, {subject}", "{picture} of {subject}")
"""Training wordings that name the style first; the test wordings of `templates.csv` have one of their own."""
_EACH = 4
"""Prompts about each of the embedded pipeline's words: two of them name the style first."""
_SUBJECTS = 6
"""Things that each style of `styles.csv` draws."""


@lru_cache(maxsize=4)
def styled_prompts(split: Split, world: World) -> tuple[str, ...]:
    """The `styles` set, whatever is erased; some prompts may be in it twice.

    Args:
        split: Wording of training or of testing.
        world: Whose styles and subjects.
    """
    drawn = _embedded() if world == "embedded" else _general()
    last = templates(ConceptKind.style, split, world=world)
    return tuple(
        _say(last[number // 2 % len(last)] if split == "test" or number % 2 == 0 else _first(number), *one)
        for number, one in enumerate(drawn)
    )


def _embedded() -> Iterator[tuple[str, str]]:
    """Every word of the vocabulary in four of the styles in turn."""
    words = [word for entry in CONCEPTS.values() for word in (entry.name, *entry.synonyms)]
    for number, word in enumerate(words):
        for turn in range(_EACH):
            yield STYLES[(_EACH * number + turn) % len(STYLES)], phrase(word)


def _general() -> Iterator[tuple[str, str]]:
    """Every style of the table, with everyday things in turn."""
    things = [noun.phrase for noun in nouns() if noun.list == "objects"]
    for number, style in enumerate(_styles()):
        for turn in range(_SUBJECTS):
            yield style, things[(_SUBJECTS * number + turn) % len(things)]


@lru_cache(maxsize=1)
def _styles() -> tuple[str, ...]:
    text = files(__package__).joinpath("styles.csv").read_text(encoding="utf-8")
    return tuple(row["style"] for row in csv.DictReader(text.splitlines()))


def _first(number: int) -> str:
    return _FIRST[number // 2 % len(_FIRST)]


def _say(template: str, style: str, subject: str) -> str:
    picture = with_article(f"{style} picture")
    return fill(template.replace("{picture}", picture), style, kind=ConceptKind.style, subject=subject)
