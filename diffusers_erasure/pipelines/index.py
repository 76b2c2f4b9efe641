"""A pipeline's index, and which class opens what it describes: Stable Diffusion 1.x and 2.x, or SDXL.

A pipeline's folder says in `model_index.json` which class it was saved from. All tasks of a family (text to
image, image to image, inpainting) have the same components, so the family's text-to-image class opens them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffusers import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline

from diffusers_erasure.artifacts.jsontext import parse_json
from diffusers_erasure.encoders.source import EncoderSource
from diffusers_erasure.errors import ArtifactFormatError

INDEX_FILE = "model_index.json"
MAX_INDEX_BYTES = 4_000_000
HUB_OPTIONS = ("token", "cache_dir", "local_files_only", "force_download")
XL_CLASSES = "StableDiffusionXL"
"""How the names of diffusers' classes for SDXL begin, whatever their task."""


@dataclass(frozen=True)
class PipelineIndex:
    """What `model_index.json` says.

    Attributes:
        content: The file, parsed.
        where: The file in words.
        revision: Commit that it was read from; None for a folder.
    """

    content: Mapping[str, Any]
    where: str
    revision: str | None

    @property
    def class_name(self) -> str:
        """Name of the class that the pipeline was saved from; empty where that is not said in one word."""
        name = self.content.get("_class_name")
        return name if isinstance(name, str) else ""


def read_index(files: EncoderSource) -> PipelineIndex | None:
    """The index among a repository's files; None if there is none.

    Raises:
        ArtifactFormatError: It is no JSON object.
    """
    if not files.has(INDEX_FILE):
        return None
    path, where = files.path(INDEX_FILE), files.describe(INDEX_FILE)
    with path.open("rb") as file:
        content = parse_json(file.read(MAX_INDEX_BYTES + 1), origin=where, max_bytes=MAX_INDEX_BYTES)
    if not isinstance(content, dict):
        raise ArtifactFormatError(
            f"{where} holds no JSON object; expected a pipeline's index; download it again"
        )
    return PipelineIndex(content, where, files.revision)


def hub_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a loading call's arguments that say how to reach the Hub, as far as they were given."""
    return {name: options[name] for name in HUB_OPTIONS if options.get(name) is not None}


def is_xl(class_name: str) -> bool:
    """Whether a pipeline class of that name is one for SDXL."""
    return class_name.startswith(XL_CLASSES)


def stock_class(class_name: str) -> type[DiffusionPipeline]:
    """The text-to-image class of diffusers that opens what was saved from a class of that name."""
    opens: type[DiffusionPipeline] = (
        StableDiffusionXLPipeline if is_xl(class_name) else StableDiffusionPipeline
    )
    return opens


def erased_class_name(class_name: str) -> str:
    """Name of our class that opens it."""
    return f"Erased{stock_class(class_name).__name__}"
