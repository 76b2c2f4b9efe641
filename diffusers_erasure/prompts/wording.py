"""How prompts speak of a concept: templates, and the concept as it stands in them.

`templates.csv` beside this file holds our own wordings. Its columns:

    kind       object, style, identity or theme
    split      `train` for methods, `test` for evaluation; no template is in both
    scope      `shared`: the embedded pipeline knows it too; `general`: for pretrained models only
    template   `{}` takes the concept (or the style's name); `{subject}`, in styles, takes what is drawn in it
"""

from __future__ import annotations

import csv
from functools import lru_cache
from importlib.resources import files
from typing import Literal

from diffusers_erasure.concepts import ConceptKind
from diffusers_erasure.embedded import EMBEDDED_MODEL_ID
from diffusers_erasure.embedded.vocabulary import with_article

Split = Literal["train", "test"]
World = Literal["embedded", "general"]
"""Whose prompts: those that the embedded pipeline's captions taught it, or those of any pretrained model."""


def world_of(base: str) -> World:
    """The world whose words a base model knows.

    Args:
        base: How an artifact names its base model: the embedded pipeline's own id, or any other.
    """
    return "embedded" if base == EMBEDDED_MODEL_ID else "general"


_ARTICLES = frozenset({"a", "an", "the"})


@lru_cache(maxsize=1)
def _rows() -> tuple[dict[str, str], ...]:
    text = files(__package__).joinpath("templates.csv").read_text(encoding="utf-8")
    return tuple(csv.DictReader(text.splitlines()))


def templates(
    kind: ConceptKind | str, split: Split = "train", *, world: World = "embedded"
) -> tuple[str, ...]:
    """Wordings for one kind of concept; the first training one of every kind but style is the bare `{}`.

    Args:
        kind: What sort of concept is spoken of.
        split: Train or test; the two share no template.
        world: `embedded` gives those that the embedded pipeline's captions use, `general` gives all.
    """
    wanted = ConceptKind(kind).value
    return tuple(
        row["template"]
        for row in _rows()
        if row["kind"] == wanted
        and row["split"] == split
        and (world == "general" or row["scope"] == "shared")
    )


def phrase(word: str, kind: ConceptKind = ConceptKind.object) -> str:
    """The word as it stands in a prompt: "a church", but "ink", "Van Gogh", "weapons".

    Styles, identities, names that start with a capital, a theme's plural, and phrases that begin with an
    article of their own stand as they are.
    """
    if not word or kind in (ConceptKind.style, ConceptKind.identity) or word[0].isupper():
        return word
    if kind is ConceptKind.theme and word.endswith("s"):
        return word
    return word if word.partition(" ")[0] in _ARTICLES else with_article(word)


def fill(template: str, word: str, *, kind: ConceptKind = ConceptKind.object, subject: str = "") -> str:
    """Put a concept into a template.

    Args:
        template: One of `templates(kind)`.
        word: Name, synonym or anchor, without an article.
        kind: Kind of the concept that the template is for.
        subject: What is drawn, with its article, where the template has `{subject}`.
    """
    return template.format(phrase(word, kind), subject=subject)
