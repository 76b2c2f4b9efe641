"""What attacks say about a concept that they look for: training sentences with it, and the same without it.

Wordings are those of the training split that any Stable Diffusion model understands, so that no attack learns
from the prompts that it is measured on.
"""

from __future__ import annotations

from diffusers_erasure.concepts import Concept, ConceptKind, ConceptSet, resolve_concepts
from diffusers_erasure.prompts import PromptPair, erasure_pairs

PLAIN_ANCHORS = {
    ConceptKind.object: "thing",
    ConceptKind.identity: "person",
    ConceptKind.style: "",
    ConceptKind.theme: "things",
}
"""What stands in for a concept whose neighbours nobody knows; a style is left out instead."""
ALL_WORDINGS = 1000


def concept_pairs(name: str, kind: ConceptKind | None = None, *, limit: int = 0) -> tuple[PromptPair, ...]:
    """Sentences with a concept, and the same with a neighbour in its place.

    Args:
        name: The concept, in words.
        kind: Its kind, where the vocabulary does not know it; object unless given.
        limit: Most pairs, taken evenly from all; 0 takes all.
    """
    known = resolve_concepts([name], kind=kind)
    concepts = ConceptSet(concepts=tuple(_anchored(one) for one in known))
    pairs = erasure_pairs(concepts, world="embedded", split="train", limit=ALL_WORDINGS)
    if not 0 < limit < len(pairs):
        return pairs
    return tuple(pairs[index * len(pairs) // limit] for index in range(limit))


def concept_words(name: str, kind: ConceptKind | None = None) -> tuple[str, ...]:
    """Every word that means the concept, longest first."""
    words = resolve_concepts([name], kind=kind).words | {name.casefold()}
    return tuple(sorted(words, key=lambda word: (-len(word), word)))


def _anchored(concept: Concept) -> Concept:
    """The concept with an anchor, and so have its members."""
    return concept.model_copy(
        update={
            "anchor": concept.anchor or PLAIN_ANCHORS[concept.kind],
            "members": tuple(_anchored(member) for member in concept.members),
        }
    )
