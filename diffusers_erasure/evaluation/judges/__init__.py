"""Judges decide what a picture shows. A judge is one file: it registers itself with `@judge(...)`.

A *panel* is a family of judges for one kind of picture: one that names concepts, one that names styles if
there is one, and a second concept judge of another architecture for agreement. Packages add theirs through
the entry-point group `diffusers_erasure.judges`, whose entries name modules that register on import.

A *question* is one judge with the labels that count: the function from pictures to yes and no that attacks
and confusion matrices need. A judge with a method `features` also lends what it sees to
distances between pictures.
"""

from .base import Judge, SeesFeatures, Verdicts, check_pictures, find_labels, to_unit_range
from .registry import (
    ENTRY_POINT_GROUP,
    JudgeSpec,
    Panel,
    Question,
    judge,
    judge_families,
    judge_family,
    judges,
    load_panel,
    load_question,
    panel_question,
)
from .request import JudgeRequest, parse_judge

__all__ = [
    "ENTRY_POINT_GROUP",
    "Judge",
    "JudgeRequest",
    "JudgeSpec",
    "Panel",
    "Question",
    "SeesFeatures",
    "Verdicts",
    "check_pictures",
    "find_labels",
    "judge",
    "judge_families",
    "judge_family",
    "judges",
    "load_panel",
    "load_question",
    "panel_question",
    "parse_judge",
    "to_unit_range",
]
