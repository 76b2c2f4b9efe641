"""Runs of TRCE on the tiny pipeline that take seconds, for the tests of both stages."""

from __future__ import annotations

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from diffusers_erasure.artifacts.artifact import Artifact
from diffusers_erasure.artifacts.edits import RightFactorEdit
from diffusers_erasure.artifacts.manifest import BaseModelRef
from diffusers_erasure.prompts import PromptPair
from diffusers_erasure.training.trce_settings import TRCEConfig

BASE = BaseModelRef(id="tiny")
FRAMES = ("a ", "a picture of a ", "a drawing of a ")
PAIRS = [PromptPair(f"{frame}dog", f"{frame}cat", "dog", "cat") for frame in FRAMES]
KEPT = ("", "a cat", "owl", "two cars", "red tree", "a bowl of rice")


def config(**values: object) -> TRCEConfig:
    """A run of seconds."""
    defaults: dict[str, object] = {
        "concept": ["dog"],
        "preset": "paper",
        "use_synonyms": False,
        "num_templates": 3,
        "max_train_steps": 4,
        "learning_rate": 1e-3,
        "num_inference_steps": 4,
        "early_steps": 2,
        "trajectories_per_prompt": 2,
        "regularization_trajectories": 2,
        "latents_dtype": "float32",
    }
    return TRCEConfig.parse(defaults | values)


def states_of(pipe: StableDiffusionPipeline, prompt: str) -> Tensor:
    """Text states as the pipeline computes them, `(tokens, width)`."""
    ids = pipe.tokenizer(prompt, padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        states: Tensor = pipe.text_encoder(ids)[0][0]
    return states


def factor_of(artifact: Artifact) -> Tensor:
    """X of a stage 1 artifact, `(width, width)`."""
    edit = artifact.edits["unet"]
    assert isinstance(edit, RightFactorEdit)
    return edit.matrix
