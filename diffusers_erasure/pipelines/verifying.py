"""Whether a pipeline is erased as promised: by what was loaded into it, and by what its weights came with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusers_erasure.artifacts.artifact import Artifact
from diffusers_erasure.artifacts.verify import VerificationReport, verify_loaded

from .guard import verify_all


def verify_erasure(
    pipe: Any, source: Artifact | str | Path | None = None, *, name: str | None = None, **options: Any
) -> VerificationReport:
    """Compare all weights of a pipeline with what they must be.

    Args:
        pipe: Any pipeline, stock or ours.
        source: Artifact that must be there; None checks everything that is erased here: what was loaded, and
            text encoders and UNets that came erased, such as a `RobustEncoder`.
        name: Only the erasure of this name.
        options: `subfolder`, `revision`, `token`, `cache_dir`, `local_files_only`, with a source.

    Raises:
        ConfigError: There is no erasure of that name.
        ArtifactError: The source cannot be read.
    """
    if source is not None:
        return verify_loaded(pipe, source, name=name, **options)
    return verify_all(pipe, name=name)
