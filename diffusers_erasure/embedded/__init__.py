"""The embedded pipeline: a small, real Stable Diffusion that ships with the package.

It draws 66 things in 7 styles at 64 x 64 pixels, and is the default model of every command, so that erasing,
attacking and measuring run offline on a CPU within minutes. `recipe` is how it was made; nothing here imports
it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from diffusers_erasure.errors import ArtifactNotFoundError

if TYPE_CHECKING:
    import torch
    from diffusers import StableDiffusionPipeline

EMBEDDED_MODEL_ID = "embedded"
"""Means the embedded pipeline wherever a base model is named."""

EMBEDDED_STEPS = 25
EMBEDDED_GUIDANCE_SCALE = 3.0


def embedded_folder() -> Path:
    """Return the pipeline's folder in the package; the judges and the attribution lie in it as well."""
    return Path(__file__).parent / "model"


def resolve_model(name_or_path: str) -> str:
    """Return the folder of the embedded pipeline for `"embedded"`, and any other name unchanged.

    Raises:
        ArtifactNotFoundError: The weights are missing from the installation.
    """
    if name_or_path != EMBEDDED_MODEL_ID:
        return name_or_path
    folder = embedded_folder()
    if not (folder / "model_index.json").exists():
        raise ArtifactNotFoundError(
            "the embedded pipeline is missing from the installation: expected model_index.json in the "
            "package's `embedded/model` folder; install the package again"
        )
    return str(folder)


def embedded_pipeline(*, dtype: torch.dtype | None = None) -> StableDiffusionPipeline:
    """Load the embedded pipeline: a stock `StableDiffusionPipeline`, 64 x 64 pixels, best with 25 DDIM steps.

    Args:
        dtype: float32 if not given; the weights are stored in float16.

    Raises:
        ArtifactNotFoundError: The weights are missing from the installation.
    """
    import torch
    from diffusers import StableDiffusionPipeline

    pipeline: StableDiffusionPipeline = StableDiffusionPipeline.from_pretrained(
        resolve_model(EMBEDDED_MODEL_ID), dtype=dtype or torch.float32, local_files_only=True
    )
    return pipeline
