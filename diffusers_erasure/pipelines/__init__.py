"""Erased pipelines, and the loading of base ones. Importing this room registers them with diffusers."""

from .base import load_base_pipeline
from .guard import ErasureMissingWarning
from .loader import ErasureLoaderMixin
from .stable_diffusion_erased import ErasedStableDiffusionPipeline
from .stable_diffusion_xl_erased import ErasedStableDiffusionXLPipeline

__all__ = [
    "ErasedStableDiffusionPipeline",
    "ErasedStableDiffusionXLPipeline",
    "ErasureLoaderMixin",
    "ErasureMissingWarning",
    "load_base_pipeline",
]
