"""The caption grammar: what a picture of the embedded pipeline's world may be called.

A caption names the concept (or a synonym, its tags, its group), perhaps the style and the background. Ten per
cent of the captions are emptied in training (classifier-free guidance), not here.
"""

import random

from diffusers_erasure.embedded.vocabulary import CONCEPTS, GROUP_PHRASES, with_article

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
    plural = concept if concept.endswith("s") else f"{concept}s"
    return _dress(f"two {plural}", style, colour, rng)


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
