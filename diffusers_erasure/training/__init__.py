"""Erasure methods: from a pipeline and settings to an artifact.

registry          which methods there are; a new one is one new file here
config            settings that every method shares, and how far a run is
closed_form       least-squares edits: statistics, one factorisation, one matrix for all layers
token_positions   which text states of a prompt are mapped
text_states       prompts to statistics, streamed
uce               unified concept editing
"""

from .config import Progress, ProgressCallback, TrainingConfig
from .registry import MethodSpec, erasure_method, method, methods

__all__ = [
    "MethodSpec",
    "Progress",
    "ProgressCallback",
    "TrainingConfig",
    "erasure_method",
    "method",
    "methods",
]
