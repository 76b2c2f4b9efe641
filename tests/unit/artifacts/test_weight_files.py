"""Which variant a pipeline's weights were saved as."""

from __future__ import annotations

import pytest

from diffusers_erasure.artifacts.weight_files import variant_of


@pytest.mark.parametrize(
    ("names", "variant"),
    [
        (["unet/diffusion_pytorch_model.safetensors", "vae/config.json"], None),
        (["unet/diffusion_pytorch_model.fp16.safetensors", "text_encoder/model.fp16.safetensors"], "fp16"),
        (["text_encoder/model.fp16-00001-of-00002.safetensors", "README.md"], "fp16"),
        (["text_encoder/model-00001-of-00002.safetensors"], None),
        (["unet/diffusion_pytorch_model.fp16.safetensors", "text_encoder/model.safetensors"], None),
        ([], None),
    ],
)
def test_all_weights_have_one_variant_or_there_is_none(names: list[str], variant: str | None) -> None:
    assert variant_of(names) == variant
