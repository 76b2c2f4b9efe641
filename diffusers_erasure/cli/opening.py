"""Where a command finds the artifact that it was given: the arguments that every such command has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import tyro

if TYPE_CHECKING:
    from diffusers_erasure.artifacts.artifact import Artifact


@dataclass(frozen=True)
class ArtifactSource:
    """An artifact in a folder or on the Hub."""

    artifact: tyro.conf.Positional[str]
    """folder or Hub id of the artifact"""
    subfolder: str | None = None
    """folder inside of the repository"""
    revision: str | None = None
    """branch, tag or commit"""
    token: str | None = None
    """Hub token"""
    cache_dir: str | None = None
    """where downloads are kept"""
    local_files_only: bool = False
    """use only what is in the cache"""

    def open(self) -> Artifact:
        """Load it through the one door; errors as `load_artifact` raises them."""
        from diffusers_erasure.artifacts.door import load_artifact

        return load_artifact(
            self.artifact,
            subfolder=self.subfolder,
            revision=self.revision,
            token=self.token,
            cache_dir=self.cache_dir,
            local_files_only=self.local_files_only,
        )
