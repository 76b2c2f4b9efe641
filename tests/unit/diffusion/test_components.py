"""The parts of a pipeline: what is told of them without running them."""

from __future__ import annotations

import pytest
import torch
from diffusers import UNet2DConditionModel

from diffusers_erasure.diffusion import latent_shape


@pytest.mark.parametrize(
    ("sample_size", "shape"), [(8, (4, 8, 8)), ((6, 10), (4, 6, 10)), ([6, 10], (4, 6, 10))]
)
def test_latents_have_the_size_that_the_unet_was_trained_on(
    sample_size: int | tuple[int, int], shape: tuple[int, int, int]
) -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=sample_size, cross_attention_dim=8)
    assert latent_shape(unet) == shape
