"""A tiny, real SDXL pipeline with random weights: the sibling of the tiny Stable Diffusion in `conftest.py`.

Two encoders of different width and depth, a second tokenizer that pads with "!", and a UNet that is told a
pooled state besides.
"""

from __future__ import annotations

import string
from collections.abc import Sequence

import torch
from diffusers import DDIMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from diffusers_erasure.diffusion import text_projections
from tests.tiny_parts import END, START, tiny_text_config, tiny_vae

TOKENS, WIDTHS = 16, (8, 12)


def tokenizer(
    pad: str,
    *,
    length: int = TOKENS,
    letters: str = string.ascii_lowercase,
    merges: Sequence[tuple[str, str]] = (),
) -> CLIPTokenizer:
    """One token for each character and each merge; "!" has id 0."""
    words = ["!", *letters, "!</w>", *(f"{letter}</w>" for letter in letters), START, END]
    words += ["".join(merge) for merge in merges]
    return CLIPTokenizer(
        vocab={word: number for number, word in enumerate(words)},
        merges=list(merges),
        pad_token=pad,
        model_max_length=length,
    )


def unet() -> UNet2DConditionModel:
    """A UNet of SDXL's kind, turned up so that the prompt moves the picture."""
    module = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2),
        cross_attention_dim=sum(WIDTHS),
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        norm_num_groups=4,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=6 * 4 + WIDTHS[1],
    ).eval()
    with torch.no_grad():
        for projection in text_projections(module):
            projection.weight.mul_(4)
    return module


def build_tiny_xl(seed: int = 0) -> StableDiffusionXLPipeline:
    """A pipeline of its own; another seed gives another base model of the same shapes."""
    first, second = tokenizer(END), tokenizer("!")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipe = StableDiffusionXLPipeline(
            vae=tiny_vae(),
            text_encoder=CLIPTextModel(tiny_text_config(first, width=WIDTHS[0], layers=2)).eval(),
            text_encoder_2=CLIPTextModelWithProjection(
                tiny_text_config(second, width=WIDTHS[1], layers=3)
            ).eval(),
            tokenizer=first,
            tokenizer_2=second,
            unet=unet(),
            scheduler=DDIMScheduler(clip_sample=False),
            add_watermarker=False,
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe
