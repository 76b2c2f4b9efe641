"""Where UNets of several shapes read the text."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel

from diffusers_erasure.diffusion import text_projections
from diffusers_erasure.errors import ConfigError


def test_every_key_and_value_is_found(tiny_pipe: StableDiffusionPipeline) -> None:
    state = tiny_pipe.unet.state_dict()
    expected = [key for key in state if "attn2.to_k.weight" in key or "attn2.to_v.weight" in key]
    found = text_projections(tiny_pipe.unet, text_width=8)
    assert sorted(projection.key for projection in found) == sorted(expected)
    for projection in found:
        assert projection.weight.data_ptr() == state[projection.key].data_ptr()


def test_other_widths_and_depths(make_tiny_pipe: Callable[..., StableDiffusionPipeline]) -> None:
    unet = make_tiny_pipe(width=12).unet
    assert {projection.weight.shape[1] for projection in text_projections(unet)} == {12}
    with pytest.raises(ConfigError, match="reads states of width 12, but the text encoder gives 8"):
        text_projections(unet, text_width=8)


def test_a_first_attention_that_reads_the_text_counts_too() -> None:
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=2,
        norm_num_groups=4,
        only_cross_attention=True,
    )
    keys = [projection.key for projection in text_projections(unet)]
    assert any("attn1.to_k" in key for key in keys)
    assert any("attn2.to_k" in key for key in keys)


def test_fused_attention_is_refused(tiny_pipe: StableDiffusionPipeline) -> None:
    tiny_pipe.unet.fuse_qkv_projections()
    with pytest.raises(ConfigError, match="fused"):
        text_projections(tiny_pipe.unet)


def test_a_lora_is_looked_through(tiny_pipe: StableDiffusionPipeline) -> None:
    peft = pytest.importorskip("peft")
    before = {p.key: p.weight.data_ptr() for p in text_projections(tiny_pipe.unet)}
    tiny_pipe.unet.add_adapter(peft.LoraConfig(r=2, target_modules=["to_k", "to_v"]))
    assert {p.key: p.weight.data_ptr() for p in text_projections(tiny_pipe.unet)} == before


def test_a_layer_without_a_matrix_is_refused(tiny_pipe: StableDiffusionPipeline) -> None:
    tiny_pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_k = torch.nn.Identity()
    with pytest.raises(ConfigError, match="is a Identity without a matrix"):
        text_projections(tiny_pipe.unet)


def test_a_model_that_reads_no_text_is_refused() -> None:
    with pytest.raises(ConfigError, match="no cross-attention"):
        text_projections(torch.nn.Linear(2, 2))
