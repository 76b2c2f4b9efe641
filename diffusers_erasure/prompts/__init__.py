"""What is said to a model: wordings, pairs that teach an erasure, prompts that must stay.

wording        templates per kind of concept, split into train and test
pairs          a sentence with the concept and the same sentence with the anchor
retain         prompts whose pictures must not change
retain_sets    the same as a choice: sets by name or file, with what is left out and why
retain_rules   the rules that leave prompts out
nouns          lists of things that one can photograph
"""

from .pairs import PromptPair, erasure_pairs, subjects
from .retain_rules import KeywordRule, RetainRule, load_rule, related_words
from .retain_sets import (
    RETAIN_SETS,
    DroppedPrompt,
    RetainSelection,
    RetainSet,
    retain_prompts,
    retain_set_prompts,
    select_retain_prompts,
)
from .wording import Split, World, fill, phrase, templates, world_of

__all__ = [
    "RETAIN_SETS",
    "DroppedPrompt",
    "KeywordRule",
    "PromptPair",
    "RetainRule",
    "RetainSelection",
    "RetainSet",
    "Split",
    "World",
    "erasure_pairs",
    "fill",
    "load_rule",
    "phrase",
    "related_words",
    "retain_prompts",
    "retain_set_prompts",
    "select_retain_prompts",
    "subjects",
    "templates",
    "world_of",
]
