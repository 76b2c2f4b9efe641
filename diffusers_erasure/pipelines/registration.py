"""What diffusers has to be told about our pipelines. Run when this room is imported.

`AutoPipelineFor*.from_pipe` finds the class for a task in tables by class name, and refuses a class that is
in none. Ours stand under one key of their own, so that the tasks switch among the erased classes. The tables
are not public API; a test guards that the write arrives.
"""

from __future__ import annotations

from collections.abc import Mapping

from diffusers import DiffusionPipeline
from diffusers.pipelines import auto_pipeline

PUBLIC_MODULE = "diffusers_erasure"
"""Where our pipeline classes say that they live, since that is where users import them from."""
TABLES: Mapping[str, str] = {
    "text2image": "AUTO_TEXT2IMAGE_PIPELINES_MAPPING",
    "image2image": "AUTO_IMAGE2IMAGE_PIPELINES_MAPPING",
    "inpaint": "AUTO_INPAINT_PIPELINES_MAPPING",
}


def register_pipelines(family: str, classes: Mapping[str, type[DiffusionPipeline]]) -> None:
    """Make classes known to `AutoPipelineFor*`; does nothing new when called again.

    Args:
        family: Key in the tables, for example "stable-diffusion-erased".
        classes: Class per task, a key of `TABLES`.
    """
    for task, pipeline in classes.items():
        getattr(auto_pipeline, TABLES[task])[family] = pipeline
