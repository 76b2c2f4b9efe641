"""Metrics: one file each, pure functions from counts, features or pictures to figures.

    fid         FID and KID between two sets of pictures, by features of a given extractor
    extractors  where features come from

Those stand in reports (`fidelity`). For Python alone, no command computes them:

    retention   what is kept of other concepts, with a margin declared beforehand
    clip_score  how well pictures fit their prompts
    lpips       how far pictures moved that were drawn from the same seeds

Each figure stands beside the number of pictures that it was computed from.
"""

from .clip_score import ClipScorer, clip_score
from .extractors import (
    Extractor,
    classifier_extractor,
    clip_extractor,
    embedded_extractor,
    judge_extractor,
    load_extractor,
)
from .fid import Distance, fid, image_distance, kid
from .lpips import Perceptual, embedded_perceptual, lpips
from .retention import Retention

__all__ = [
    "ClipScorer",
    "Distance",
    "Extractor",
    "Perceptual",
    "Retention",
    "classifier_extractor",
    "clip_extractor",
    "clip_score",
    "embedded_extractor",
    "embedded_perceptual",
    "fid",
    "image_distance",
    "judge_extractor",
    "kid",
    "load_extractor",
    "lpips",
]
