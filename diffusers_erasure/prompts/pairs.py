"""Pairs of prompts that differ in the concept alone: what is said now, and what it is to mean.

A *source* names the concept, by its own name or a synonym; its *target* is the same sentence with the
anchor in the concept's place. Where the anchor is empty, the target is what remains without the concept:
the subject without its style, and for everything else the empty prompt, which is the unconditional one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import cycle, islice

from diffusers_erasure.concepts import Concept, ConceptKind, ConceptSet
from diffusers_erasure.embedded.vocabulary import CONCEPTS, STYLES

from .wording import Split, World, fill, phrase, templates

_GENERAL_SUBJECTS = ("house", "woman", "tree", "boat", "street", "dog", "vase of flowers", "mountain")


@dataclass(frozen=True)
class PromptPair:
    """A sentence with the concept, and the one that it shall mean.

    Attributes:
        source: Prompt that names or implies the concept.
        target: The same with the anchor; may be empty.
        source_word: The concept's word as it stands in `source`, without its article; empty if no word is
            known that names it there. Such a pair has an end token to map, but no tokens of the concept.
        target_word: The anchor's word in `target`; empty if the target has none.
    """

    source: str
    target: str
    source_word: str
    target_word: str


def erasure_pairs(
    concepts: ConceptSet,
    *,
    world: World = "general",
    split: Split = "train",
    synonyms: bool = True,
    limit: int | None = None,
) -> tuple[PromptPair, ...]:
    """Every pair that teaches the erasure of `concepts`, each once.

    Args:
        concepts: What is erased; themes contribute their own words and those of their members.
        world: Whose prompts: the embedded pipeline's, with its style words, or a pretrained model's.
        split: Templates of training or of testing.
        synonyms: Whether synonyms are mapped too.
        limit: Most templates per word; 0 takes the bare word alone. None takes all.
    """
    found: dict[PromptPair, None] = {}
    for concept in concepts:
        for part in concept.walk():
            words = part.words if synonyms else (part.name,)
            for word in words:
                found.update(dict.fromkeys(word_pairs(part, word, world, split, limit)))
    return tuple(found)


def word_pairs(
    concept: Concept, word: str, world: World, split: Split, limit: int | None
) -> Iterator[PromptPair]:
    """Pairs that map one word to a concept's anchor, whether or not it is among the concept's own words."""
    if limit == 0:
        yield PromptPair(word, concept.anchor, word, concept.anchor)
        return
    if concept.kind is ConceptKind.style:
        yield from _style_pairs(concept, word, world, split, limit)
        return
    wordings = templates(concept.kind, split, world=world)[:limit]
    for template in wordings:
        yield _object_pair(concept, word, template)
    if world == "embedded" and limit is None:
        yield from _styled_pairs(concept, word, split)


def _object_pair(concept: Concept, word: str, template: str, style: str = "", frame: str = "") -> PromptPair:
    source = fill(template, word, kind=concept.kind)
    target = fill(template, concept.anchor, kind=concept.kind) if concept.anchor else ""
    if frame:
        source = fill(frame, style, kind=ConceptKind.style, subject=source)
        target = fill(frame, style, kind=ConceptKind.style, subject=target) if target else ""
    return PromptPair(source, target, word, concept.anchor)


def _styled_pairs(concept: Concept, word: str, split: Split) -> Iterator[PromptPair]:
    """The bare concept in every style of the embedded pipeline, in every wording of a style."""
    bare = templates(concept.kind, split, world="embedded")[0]
    frames = templates(ConceptKind.style, split, world="embedded")
    for index, style in enumerate(STYLES):
        for frame in _turn(frames, index, 2):
            yield _object_pair(concept, word, bare, style, frame)


def _style_pairs(
    concept: Concept, word: str, world: World, split: Split, limit: int | None
) -> Iterator[PromptPair]:
    frames = templates(ConceptKind.style, split, world=world)[:limit]
    for index, subject in enumerate(subjects(world)):
        for frame in _turn(frames, index, 2):
            target = (
                fill(frame, concept.anchor, kind=ConceptKind.style, subject=subject)
                if concept.anchor
                else subject
            )
            source = fill(frame, word, kind=ConceptKind.style, subject=subject)
            yield PromptPair(source, target, word, concept.anchor)


def subjects(world: World) -> tuple[str, ...]:
    """What styles are shown on, with articles."""
    names: Iterable[str] = CONCEPTS if world == "embedded" else _GENERAL_SUBJECTS
    return tuple(phrase(name) for name in names)


def _turn(items: tuple[str, ...], start: int, count: int) -> Iterator[str]:
    """`count` items in turn, beginning at another one for every `start`."""
    first = start * count % len(items)
    return islice(cycle(items), first, first + min(count, len(items)))
