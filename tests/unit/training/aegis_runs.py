"""AEGIS runs of seconds on the tiny pipeline."""

from __future__ import annotations

import torch
from diffusers import StableDiffusionPipeline

from diffusers_erasure.artifacts.manifest import BaseModelRef
from diffusers_erasure.diffusion import DiffusionComponents
from diffusers_erasure.training.aegis_settings import AEGISConfig
from diffusers_erasure.training.aegis_task import AEGISTask
from diffusers_erasure.training.concept_prompts import ScopedPrompt
from diffusers_erasure.training.student import Student

BASE = BaseModelRef(id="tiny")


def config(**values: object) -> AEGISConfig:
    """A run of seconds."""
    defaults: dict[str, object] = {
        "concept": ["dog"],
        "preset": "paper",
        "max_train_steps": 4,
        "learning_rate": 1e-3,
        "num_inference_steps": 4,
        "pool_trajectories": 2,
    }
    return AEGISConfig.parse(defaults | values)


def task_of(pipe: StableDiffusionPipeline, **values: object) -> AEGISTask:
    """A task whose student is not the original any more."""
    chosen = config(**values)
    components = DiffusionComponents.from_pipeline(pipe)
    student = Student.of(components, chosen.train_method)
    with torch.no_grad():
        for weight in student.parameters.values():
            weight.add_(0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    return AEGISTask(components, student, [ScopedPrompt("dog")], chosen)
