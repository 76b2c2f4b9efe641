"""Concept erasure for diffusers pipelines: train it, load it, verify it, measure it.

Importing this package is cheap: a public name is imported when it is first used, and torch, diffusers and
transformers with it, not before. `_MODULES` says where each public name lives; a new one is added there and
among the imports for type checkers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from diffusers_erasure._version import __version__

if TYPE_CHECKING:
    from transformers import PreTrainedModel as PreTrainedModel

    from diffusers_erasure.artifacts.apply import list_erasures as list_erasures
    from diffusers_erasure.artifacts.apply import load_erasure as load_erasure
    from diffusers_erasure.artifacts.apply import set_erasure_scale as set_erasure_scale
    from diffusers_erasure.artifacts.apply import unload_erasure as unload_erasure
    from diffusers_erasure.artifacts.artifact import Artifact as Artifact
    from diffusers_erasure.artifacts.door import load_artifact as load_artifact
    from diffusers_erasure.artifacts.store import save_artifact as save_artifact
    from diffusers_erasure.artifacts.verify import ErasureState as ErasureState
    from diffusers_erasure.concepts import Concept as Concept
    from diffusers_erasure.concepts import ConceptSet as ConceptSet
    from diffusers_erasure.embedded import embedded_pipeline as embedded_pipeline
    from diffusers_erasure.encoders import RobustEncoder as RobustEncoder
    from diffusers_erasure.encoders import RobustEncoderWithProjection as RobustEncoderWithProjection
    from diffusers_erasure.errors import ErasureError as ErasureError
    from diffusers_erasure.pipelines import ErasedStableDiffusionPipeline as ErasedStableDiffusionPipeline
    from diffusers_erasure.pipelines import ErasedStableDiffusionXLPipeline as ErasedStableDiffusionXLPipeline
    from diffusers_erasure.pipelines import ErasureLoaderMixin as ErasureLoaderMixin
    from diffusers_erasure.pipelines.verifying import verify_erasure as verify_erasure

_MODULES = {
    "Artifact": "diffusers_erasure.artifacts.artifact",
    "Concept": "diffusers_erasure.concepts",
    "ConceptSet": "diffusers_erasure.concepts",
    "ErasedStableDiffusionPipeline": "diffusers_erasure.pipelines",
    "ErasedStableDiffusionXLPipeline": "diffusers_erasure.pipelines",
    "ErasureError": "diffusers_erasure.errors",
    "ErasureLoaderMixin": "diffusers_erasure.pipelines",
    "ErasureState": "diffusers_erasure.artifacts.verify",
    # diffusers looks for this base class here when a saved pipeline names a component of ours.
    "PreTrainedModel": "transformers",
    "RobustEncoder": "diffusers_erasure.encoders",
    "RobustEncoderWithProjection": "diffusers_erasure.encoders",
    "embedded_pipeline": "diffusers_erasure.embedded",
    "list_erasures": "diffusers_erasure.artifacts.apply",
    "load_artifact": "diffusers_erasure.artifacts.door",
    "load_erasure": "diffusers_erasure.artifacts.apply",
    "save_artifact": "diffusers_erasure.artifacts.store",
    "set_erasure_scale": "diffusers_erasure.artifacts.apply",
    "unload_erasure": "diffusers_erasure.artifacts.apply",
    "verify_erasure": "diffusers_erasure.pipelines.verifying",
}

__all__ = ["__version__", *_MODULES]  # noqa: PLE0604 - every name of the table is a string


if not TYPE_CHECKING:  # a type checker that saw this would believe in every misspelt name

    def __getattr__(name: str) -> object:
        """Import a public name when it is first used (PEP 562)."""
        module = _MODULES.get(name)
        if module is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value: object = getattr(importlib.import_module(module), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
