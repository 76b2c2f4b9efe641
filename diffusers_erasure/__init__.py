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
    from diffusers_erasure.errors import ErasureError as ErasureError

_MODULES = {
    "ErasureError": "diffusers_erasure.errors",
}

__all__ = ["__version__", *_MODULES]  # noqa: PLE0604 - every name of the table is a string


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
