"""The embedded pipeline: a small, real Stable Diffusion that ships with the package.

It draws 66 things in 7 styles at 64 x 64 pixels, and is the default model of every command, so that erasing,
attacking and measuring run offline on a CPU within minutes. `recipe` is how it was made; nothing here imports
it.

With it come erasures that were trained on it, one for each method, called `embedded/NAME` wherever an
artifact is named: what each method does can be seen, attacked and measured without training.
"""

from __future__ import annotations

from difflib import get_close_matches
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


def embedded_erasures() -> dict[str, Path]:
    """Folders of the erasures that ship with the embedded pipeline, by name (`embedded/church-uce`)."""
    folders = sorted(path.parent for path in erasures_folder().glob("*/erasure_config.json"))
    return {f"{EMBEDDED_MODEL_ID}/{folder.name}": folder for folder in folders}


def resolve_model(name_or_path: str) -> str:
    """Return the folder of what ships with the package, and any other name unchanged.

    Args:
        name_or_path: `"embedded"` is the pipeline, `"embedded/NAME"` one of `embedded_erasures`; a folder of
            your own that is called so is `"./embedded"`.

    Raises:
        ArtifactNotFoundError: There is no such erasure, or the weights are missing from the installation.
    """
    if name_or_path.startswith(f"{EMBEDDED_MODEL_ID}/"):
        return str(_embedded_erasure(name_or_path))
    if name_or_path != EMBEDDED_MODEL_ID:
        return name_or_path
    folder = embedded_folder()
    if not (folder / "model_index.json").exists():
        raise ArtifactNotFoundError(
            "the embedded pipeline is missing from the installation: expected model_index.json in the "
            "package's `embedded/model` folder; install the package again"
        )
    return str(folder)


def erasures_folder() -> Path:
    """Where the erasures lie that ship with the embedded pipeline, one folder each."""
    return Path(__file__).parent / "erasures"


def _embedded_erasure(name: str) -> Path:
    known = embedded_erasures()
    if name not in known:
        near = get_close_matches(name, known, n=1)
        advice = f"did you mean {near[0]!r}?" if near else f"a folder of yours is './{name}'"
        raise ArtifactNotFoundError(
            f"no erasure {name!r} ships with the embedded pipeline; expected one of "
            f"{', '.join(known) or 'none: they are missing from the installation'}; {advice}"
        )
    return known[name]


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
