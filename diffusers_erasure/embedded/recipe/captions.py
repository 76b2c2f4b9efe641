"""The caption grammar: what a picture of the embedded pipeline's world may be called.

A caption names the concept (or a synonym, its tags, its group), perhaps the style and the background. Ten per
cent of the captions are emptied in training (classifier-free guidance), not here.
"""

import random
from functools import lru_cache

from diffusers_erasure.embedded.vocabulary import CONCEPTS, GROUP_PHRASES, with_article
from diffusers_erasure.errors import MissingDependencyError

FRAMES = (
    "{}",
    "{}",
    "a picture of {}",
    "an emoji of {}",
    "a drawing of {}",
    "an image of {}",
    "a photo of {}",
)
STYLE_FRAMES = ("{}, {s} style", "{} in {s} style", "{} in the style of {s}", "{s} style {}")
_SYNONYM, _TAGS, _GROUP, _STYLED, _STRANGE = 0.30, 0.10, 0.04, 0.80, 0.01
_BARE = 0.15
_NO_PLURAL = frozenset({"scissors", "swords", "santa claus"})
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def single(concept: str, style: str, colour: str | None, rng: random.Random) -> str:
    """Caption one picture of `concept`; `colour` is None where the background is not to be named."""
    return _dress(_subject(concept, rng), style, colour, rng)


def pair(left: str, right: str, style: str, colour: str | None, rng: random.Random) -> str:
    """Caption a picture of two different concepts, left and right."""
    joined = rng.choice(("{} and {}", "{} and {}", "{} next to {}", "{} beside {}"))
    return _dress(joined.format(_named(left, rng), _named(right, rng)), style, colour, rng)


def twice(concept: str, style: str, colour: str | None, rng: random.Random) -> str:
    """Caption a picture that shows the same concept twice."""
    return _dress(f"two {plural(concept)}", style, colour, rng)


@lru_cache
def plural(concept: str) -> str:
    """Return the concept's plural; names that are plurals already, or proper, stay as they are.

    Raises:
        MissingDependencyError: inflect is not installed.
    """
    if concept in _NO_PLURAL:
        return concept
    try:
        import inflect
    except ImportError as error:
        raise MissingDependencyError(
            "captions of two equal things need inflect; pip install 'diffusers-erasure[train]'"
        ) from error
    return str(inflect.engine().plural_noun(concept))


def _named(concept: str, rng: random.Random) -> str:
    entry = CONCEPTS[concept]
    name = rng.choice(entry.synonyms) if rng.random() < _SYNONYM else concept
    return name if rng.random() < _BARE else with_article(name)


def _subject(concept: str, rng: random.Random) -> str:
    entry = CONCEPTS[concept]
    draw = rng.random()
    if draw < _STRANGE:
        return " ".join("".join(rng.choices(_LETTERS, k=rng.randint(3, 8))) for _ in range(rng.randint(1, 3)))
    if draw < _STRANGE + _GROUP:
        return GROUP_PHRASES[entry.group]
    if draw < _STRANGE + _GROUP + _TAGS:
        tags = rng.sample(entry.tags, k=min(len(entry.tags), rng.randint(2, 4)))
        return ", ".join(tags)
    return _named(concept, rng)


def _dress(subject: str, style: str, colour: str | None, rng: random.Random) -> str:
    caption = rng.choice(FRAMES).format(subject)
    if colour is not None:
        caption += f" on {'an' if colour == 'orange' else 'a'} {colour} background"
    if rng.random() < _STYLED:
        caption = rng.choice(STYLE_FRAMES).format(caption, s=style)
    return caption
