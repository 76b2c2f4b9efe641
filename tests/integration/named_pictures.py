"""Pictures of a church and of six other things, and what the judge calls each."""

from __future__ import annotations

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from diffusers_erasure.embedded.judges import load_judge
from diffusers_erasure.embedded.vocabulary import with_article

OWN = ["an image of a church", "an emoji of a church"] * 3
OTHERS = [
    f"an image of {with_article(name)}" for name in ("castle", "cat", "guitar", "car", "apple", "house")
]


def names(pipe: StableDiffusionPipeline, prompts: list[str]) -> list[str]:
    """What the judge calls one picture of each prompt."""
    generators = [torch.Generator().manual_seed(40 + number) for number in range(len(prompts))]
    drawn = pipe(prompts, generator=generators, num_inference_steps=12, guidance_scale=4.0).images
    pixels: Tensor = torch.stack([torch.from_numpy(np.asarray(picture).copy()) for picture in drawn])
    judge = load_judge("concept")
    likely = judge.probabilities(pixels.permute(0, 3, 1, 2).float() / 255).argmax(dim=1)
    return [judge.labels[int(index)] for index in likely]
