"""What is said to a model: wordings, pairs that teach an erasure, prompts that must stay.

wording   templates per kind of concept, split into train and test
pairs     a sentence with the concept and the same sentence with the anchor
retain    prompts whose pictures must not change
"""

from .pairs import PromptPair, erasure_pairs, subjects
from .retain import retain_prompts
from .wording import Split, World, fill, phrase, templates, world_of

__all__ = [
    "PromptPair",
    "Split",
    "World",
    "erasure_pairs",
    "fill",
    "phrase",
    "retain_prompts",
    "subjects",
    "templates",
    "world_of",
]
