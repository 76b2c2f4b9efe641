"""The parts of the tiny pipeline, which every test of this room works on."""

from __future__ import annotations

import pytest
from diffusers import StableDiffusionPipeline

from diffusers_erasure.diffusion import DiffusionComponents


@pytest.fixture
def components(tiny_pipe: StableDiffusionPipeline) -> DiffusionComponents:
    """The tiny pipeline's parts, a copy for each test."""
    return DiffusionComponents.from_pipeline(tiny_pipe)
