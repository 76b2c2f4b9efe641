"""Pairs of lists of words that imply a concept without naming it: "bark, leash" for a dog.

The words are the tags of the embedded pipeline's vocabulary. Its *implicit* test prompts are whole lists,
which begin at each tag in turn. Training takes parts of a list only, so that no test prompt is trained on:
every tag on its own, and neighbouring tags, always at least one fewer than the list has.

The safe side is a list of the same length of the anchor's tags, at the same places. A tag that concept and
anchor share ("pet" of dog and cat) is left out of both: it does not tell them apart, and to map it to itself
changes nothing. The safe side holds no tag of anything that is erased with the concept either.
"""

from __future__ import annotations

from collections.abc import Iterator

from diffusers_erasure.concepts import Concept, ConceptSet
from diffusers_erasure.embedded.vocabulary import CONCEPTS
from diffusers_erasure.errors import ConfigError

from .pairs import PromptPair
from .wording import Split, phrase


def tag_pairs(concepts: ConceptSet, split: Split = "train") -> tuple[PromptPair, ...]:
    """Lists of tags of what is erased, each with a list of the anchor's, each once.

    Where the vocabulary has no tags for an anchor, the safe side is the anchor itself ("a yurt"); without an
    anchor it is the empty prompt. No word names the concept, so the pairs have no words to find positions by.
    A list that two concepts have in common goes where the first of them goes.

    Args:
        concepts: What is erased; members of themes are looked up, and synonyms that the vocabulary knows.
        split: `train` for parts of the lists, `test` for whole ones, with the shared tags on both sides.

    Raises:
        ConfigError: The vocabulary has no tags for any of the concepts.
    """
    erased = frozenset(tag for leaf in concepts.leaves for tag in _tags(leaf.name))
    found: dict[str, PromptPair] = {}
    for pair in (pair for leaf in concepts.leaves for pair in _pairs(leaf, erased, split)):
        found.setdefault(pair.source, pair)
    if not found:
        raise ConfigError(
            f"there are no tags for {', '.join(map(repr, concepts.names))}; expected at least one concept of "
            f"the embedded pipeline's vocabulary; leave tags out, and give a file of pairs or an expander"
        )
    return tuple(found.values())


def _pairs(concept: Concept, erased: frozenset[str], split: Split) -> Iterator[PromptPair]:
    tags, of_anchor = _tags(concept.name), _tags(concept.anchor)
    own = tags if split == "test" else tuple(tag for tag in tags if tag not in of_anchor)
    safe = tuple(tag for tag in of_anchor if tag not in erased)
    for places in _whole(len(own)) if split == "test" else _parts(len(own), len(tags) - 1):
        kept_or_safe = [
            own[place] if own[place] in of_anchor else safe[place % len(safe)] for place in places if safe
        ]
        target = ", ".join(kept_or_safe) or phrase(concept.anchor, concept.kind)
        yield PromptPair(", ".join(own[place] for place in places), target, "", "")


def _parts(count: int, longest: int) -> Iterator[range]:
    """Places of neighbouring tags, the shortest lists first."""
    for length in range(1, min(count, longest) + 1):
        for start in range(count - length + 1):
            yield range(start, start + length)


def _whole(count: int) -> Iterator[list[int]]:
    """Places of all tags, beginning at each in turn."""
    for start in range(count):
        yield [*range(start, count), *range(start)]


def _tags(word: str) -> tuple[str, ...]:
    """Tags of a concept of the vocabulary, by its name or a synonym."""
    name = word.casefold()
    entry = CONCEPTS.get(name) or next((one for one in CONCEPTS.values() if name in one.synonyms), None)
    return tuple(tag for tag in entry.tags if tag) if entry else ()
