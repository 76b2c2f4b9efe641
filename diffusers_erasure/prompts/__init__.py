"""What is said to a model: wordings, pairs that teach an erasure, prompts that must stay.

wording        templates per kind of concept, split into train and test
pairs          a sentence with the concept and the same sentence with the anchor
expansion      more such pairs: tags, a user's file, a user's function that knows other words
tags           pairs of lists of words that imply a concept
pair_files     pairs of prompts that a user wrote
retain         prompts whose pictures must not change
retain_sets    the same as a choice: sets by name or file, with what is left out and why
retain_rules   the rules that leave prompts out
nouns          lists of things that one can photograph
user_files     files of users, by the ending of their names
csv_file       csv of users, read strictly
jsonl_file     jsonl of users, likewise
user_functions functions that users plug in by name
"""

from .expansion import ConceptExpander, expanded_pairs, load_expander
from .pair_files import read_pairs
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
from .tags import tag_pairs
from .wording import Split, World, fill, phrase, templates, world_of

__all__ = [
    "RETAIN_SETS",
    "ConceptExpander",
    "DroppedPrompt",
    "KeywordRule",
    "PromptPair",
    "RetainRule",
    "RetainSelection",
    "RetainSet",
    "Split",
    "World",
    "erasure_pairs",
    "expanded_pairs",
    "fill",
    "load_expander",
    "load_rule",
    "phrase",
    "read_pairs",
    "related_words",
    "retain_prompts",
    "retain_set_prompts",
    "select_retain_prompts",
    "subjects",
    "tag_pairs",
    "templates",
    "world_of",
]
