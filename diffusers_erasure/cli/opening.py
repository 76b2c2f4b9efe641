"""Where a command finds the artifact that it was given: the arguments that every such command has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from .console import note

if TYPE_CHECKING:
    from diffusers_erasure.artifacts.artifact import Artifact
    from diffusers_erasure.artifacts.hub import Source
    from diffusers_erasure.artifacts.signature import TrustedKey


def results_folder(work: str, source: str, digest: str, suffix: str = "") -> Path:
    """Where results go unless told, one folder per erasure: `outputs/evaluations/church-esd-1f0c97ab`.

    Args:
        work: Kind of the results.
        source: Folder or Hub id that was given.
        digest: Of the erasure; "" for a pipeline that has none.
        suffix: What else tells results apart.
    """
    name = Path(source).name or Path(source).resolve().name or "pipeline"
    return Path("outputs") / work / "-".join(part for part in (name, digest[:8], suffix) if part)


@dataclass(frozen=True)
class ArtifactSource:
    """An artifact in a folder or on the Hub."""

    artifact: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ARTIFACT")]
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

    def open(self, trusted_key: TrustedKey | None = None) -> Artifact:
        """Load it through the one door, and tell which commit it is; errors as `load_artifact` raises them.

        Args:
            trusted_key: Public key, or `Trust`, that it must be signed with.
        """
        from diffusers_erasure.artifacts.door import load_artifact

        artifact = load_artifact(self.artifact, trusted_key=trusted_key, **self._place())
        if artifact.commit is not None:
            note(f"{self.artifact}: revision {self.revision or 'main'} is commit {artifact.commit}")
        return artifact

    def place(self, commit: str | None = None) -> Source:
        """Where its files lie.

        Args:
            commit: The commit that was opened; the files come from that one.
        """
        from diffusers_erasure.artifacts.door import resolve_source

        options = self._place()
        return resolve_source(self.artifact, **{**options, "revision": commit or self.revision})

    def _place(self) -> dict[str, Any]:
        return {
            "subfolder": self.subfolder,
            "revision": self.revision,
            "token": self.token,
            "cache_dir": self.cache_dir,
            "local_files_only": self.local_files_only,
        }
