"""What an erasure costs at inference: calls of the erased pipeline against calls of the stock one.

Both pipelines hold the *same* weights and are called in pairs, in alternating order, so that whatever else
the machine does falls on both; the figure is the median of the ratios. Target: at most 1.01.

    python -m benchmarks.inference --pairs 200

Random weights do: time does not depend on what is drawn. `--width` sets the size; the smaller the model, the
larger the share of the guard, so that a small one is the hard case.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from diffusers_erasure.artifacts import BaseModelRef, RightFactorEdit, build_artifact
from diffusers_erasure.concepts import Concept
from diffusers_erasure.pipelines import ErasedStableDiffusionPipeline

TOKENS = 77


def build_base(width: int) -> StableDiffusionPipeline:
    """A stock pipeline of about the embedded one's shape, with random weights."""
    words = [chr(code) for code in range(97, 123)]
    vocabulary = [*words, *(f"{word}</w>" for word in words), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(
        vocab={word: index for index, word in enumerate(vocabulary)}, merges=[], model_max_length=TOKENS
    )
    torch.manual_seed(0)
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(vocabulary),
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(width // 2, width),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=width,
        attention_head_dim=4,
        norm_num_groups=8,
    )
    vae = AutoencoderKL(
        block_out_channels=(32, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
    )
    pipe = StableDiffusionPipeline(
        vae=vae.eval(),
        text_encoder=text_encoder.eval(),
        tokenizer=tokenizer,
        unet=unet.eval(),
        scheduler=DDIMScheduler(clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def erase(base: StableDiffusionPipeline) -> ErasedStableDiffusionPipeline:
    """The same pipeline with a right-factor edit on all cross-attention keys and values."""
    width = base.unet.config.cross_attention_dim
    targets = tuple(
        name for name in base.unet.state_dict() if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight"))
    )
    factor = 0.05 * torch.randn(width, width, generator=torch.Generator().manual_seed(1))
    artifact = build_artifact(
        base,
        {"unet": RightFactorEdit(factor, targets=targets)},
        method="uce",
        method_version="1",
        settings={},
        concepts=[Concept(name="church")],
        base=BaseModelRef(id="benchmark"),
        seed=0,
        steps=0,
        canary_prompts=["a church"],
    )
    erased = ErasedStableDiffusionPipeline(**base.components, requires_safety_checker=False)
    erased.load_erasure(artifact)
    erased.set_progress_bar_config(disable=True)
    return erased


def seconds(pipe: Any, steps: int) -> float:
    """One call, timed."""
    generator = torch.Generator().manual_seed(0)
    start = time.perf_counter()
    pipe("a dog", num_inference_steps=steps, generator=generator, output_type="pt")
    return time.perf_counter() - start


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=100, help="paired calls")
    parser.add_argument("--steps", type=int, default=25, help="sampling steps of a call")
    parser.add_argument("--width", type=int, default=160, help="text width")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    erased = erase(build_base(arguments.width))
    stock = StableDiffusionPipeline(**erased.components, requires_safety_checker=False)
    stock.set_progress_bar_config(disable=True)
    for pipe in (stock, erased, stock, erased):
        seconds(pipe, arguments.steps)
    ratios, stock_times = [], []
    for index in range(arguments.pairs):
        order = (stock, erased) if index % 2 else (erased, stock)
        times = {id(pipe): seconds(pipe, arguments.steps) for pipe in order}
        ratios.append(times[id(erased)] / times[id(stock)])
        stock_times.append(times[id(stock)])
    quartiles = statistics.quantiles(ratios, n=4)
    figures = {
        "pairs": arguments.pairs,
        "steps": arguments.steps,
        "ratio_median": round(statistics.median(ratios), 4),
        "ratio_quartiles": [round(value, 4) for value in (quartiles[0], quartiles[2])],
        "stock_seconds_median": round(statistics.median(stock_times), 4),
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(figures, indent=2))  # noqa: T201 - a script's result


if __name__ == "__main__":
    main()
