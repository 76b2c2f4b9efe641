"""Fetching a pipeline that was saved erased: every file whole, from one commit, and never a pickle.

The client checks only a file's length. Here each file of the snapshot is compared with the hash that the Hub
gave it, and one that differs is fetched once more; the components that the erasure changed are compared with
their seals afterwards (`baked`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers_erasure.artifacts.hub import HubSource

from .opening import Opened


def pull(cls: Any, opened: Opened, options: Mapping[str, Any]) -> dict[str, Any]:
    """Bring the files of a pipeline that was saved erased into the cache, and check them.

    Args:
        cls: Pipeline class that will load them.
        opened: What was found at the source; a folder, and a base pipeline, are left to diffusers.
        options: Arguments of the loading call.

    Returns:
        The arguments to load with.

    Raises:
        ArtifactIntegrityError: A file is corrupted also after a second download.
    """
    if opened.kind != "baked":
        return dict(options)
    wanted = {**options, "use_safetensors": True}
    if Path(opened.base).expanduser().is_dir():
        return wanted
    folder = Path(cls.download(opened.base, revision=opened.revision, **wanted))
    source = HubSource(
        opened.base,
        revision=opened.revision,
        token=options.get("token"),
        cache_dir=options.get("cache_dir"),
        local_files_only=bool(options.get("local_files_only")),
    )
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            source.checked(path.relative_to(folder).as_posix())
    return {**wanted, "force_download": False}
