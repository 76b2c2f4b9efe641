"""Artifacts: what an erasure is on disk, how it is read, put into a pipeline, and checked there.

    manifest      the table of contents (pydantic, no torch)
    edits         the two small forms of an edit and the whole one, and their arithmetic
    artifact      manifest + edits in memory; `build_artifact`
    store         `save_artifact`: atomic, read back before it counts
    door          `load_artifact`: the one way in, for folders and Hub repositories
    apply         `load_erasure`, `unload_erasure`, `set_erasure_scale`, `list_erasures`: copy on write
    verify        `verify_loaded`, `guard_erasures`: is what was loaded still what runs?
    fingerprint, canary, tensors, jsontext, safebytes, hub      what these are made of

Names are resolved lazily, so that `diffusers_erasure.artifacts.manifest` can be read without torch.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "Manifest": "manifest",
    "FORMAT_VERSION": "manifest",
    "BaseModelRef": "manifest",
    "ComponentSpec": "manifest",
    "ConceptRecord": "manifest",
    "SettingRecord": "manifest",
    "TensorSpec": "manifest",
    "Canary": "manifest",
    "DeltaEdit": "edits",
    "RightFactorEdit": "edits",
    "WholeEdit": "edits",
    "Edit": "edits",
    "Artifact": "artifact",
    "build_artifact": "artifact",
    "save_artifact": "store",
    "attach_file": "store",
    "load_artifact": "door",
    "AppliedErasure": "apply",
    "ErasureTransferWarning": "apply",
    "load_erasure": "apply",
    "unload_erasure": "apply",
    "set_erasure_scale": "apply",
    "list_erasures": "apply",
    "ErasureState": "verify",
    "VerificationReport": "verify",
    "guard_erasures": "verify",
}

__all__ = [
    "FORMAT_VERSION",
    "AppliedErasure",
    "Artifact",
    "BaseModelRef",
    "Canary",
    "ComponentSpec",
    "ConceptRecord",
    "DeltaEdit",
    "Edit",
    "ErasureState",
    "ErasureTransferWarning",
    "Manifest",
    "RightFactorEdit",
    "SettingRecord",
    "TensorSpec",
    "VerificationReport",
    "WholeEdit",
    "attach_file",
    "build_artifact",
    "guard_erasures",
    "list_erasures",
    "load_artifact",
    "load_erasure",
    "save_artifact",
    "set_erasure_scale",
    "unload_erasure",
]


def __getattr__(name: str) -> Any:
    """Import the module that a public name lives in, when the name is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
