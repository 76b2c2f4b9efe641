"""Erased pipelines, and the loading of base ones. Importing this room registers them with diffusers."""

from .base import load_base_pipeline
from .guard import ErasureMissingWarning
from .loader import ErasureLoaderMixin
from .stable_diffusion_erased import ErasedStableDiffusionPipeline

__all__ = [
    "ErasedStableDiffusionPipeline",
    "ErasureLoaderMixin",
    "ErasureMissingWarning",
    "load_base_pipeline",
]
