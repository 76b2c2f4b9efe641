"""The prompts by which a concept is erased: its wordings, each with what it is erased from."""

from __future__ import annotations

from dataclasses import dataclass, field

from diffusers_erasure.concepts import Concept, ConceptSet
from diffusers_erasure.prompts import World, erasure_pairs

from .guided_settings import GuidedErasureConfig


@dataclass(frozen=True)
class ScopedPrompt:
    """A wording of the concept, and the wider concept that it is erased from.

    Attributes:
        prompt: "a dog, ink style".
        scope: "a dog"; "" is everything, the unconditional prediction.
        concept: Name of the concept that it is a wording of.
    """

    prompt: str
    scope: str = ""
    concept: str = field(default="", compare=False)


def concept_prompts(
    config: GuidedErasureConfig, *, world: World, scoped: bool = True
) -> tuple[ScopedPrompt, ...]:
    """Every wording of every concept, each once; a style is erased from the subject that wears it.

    From everything, the subject would be pushed away with its style (measured: the objects go and the style
    stays).

    Args:
        config: Names the concepts, and how many wordings are wanted.
        world: Whose prompts.
        scoped: Whether prompts get a scope at all.
    """
    found: dict[str, ScopedPrompt] = {}
    for concept in config.concepts:
        alone = ConceptSet(concepts=(_without_anchor(concept),))
        for pair in erasure_pairs(
            alone, world=world, synonyms=config.use_synonyms, limit=config.num_templates
        ):
            scope = pair.target if scoped else ""
            found.setdefault(pair.source, ScopedPrompt(pair.source, scope, concept.name))
    return tuple(found.values())


def _without_anchor(concept: Concept) -> Concept:
    """The concept mapped to nothing: the target of its pairs is what the prompt says beside it."""
    members = tuple(_without_anchor(member) for member in concept.members)
    return concept.model_copy(update={"anchor": "", "members": members})
