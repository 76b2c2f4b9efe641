"""Documents beside an artifact (its manifest calls them attachments): read only by those who ask for one.

Loading an artifact opens none of them. Who reads one gets the bytes that the manifest names, bounded in size
and compared with the sha256 that was noted when the document was attached.
"""

from __future__ import annotations

from pathlib import Path

from diffusers_erasure.errors import ArtifactIntegrityError, ArtifactNotFoundError

from .door import resolve_source
from .manifest import Manifest
from .safebytes import read_bytes, sha256_of


def read_document(
    source: str | Path,
    name: str,
    *,
    manifest: Manifest,
    max_bytes: int,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> bytes:
    """The content of one attachment of an artifact.

    Args:
        source: Folder or Hub id that the artifact was loaded from.
        name: Name of the document.
        manifest: The manifest that was loaded from there.
        max_bytes: Most that it may hold.
        revision: Commit on the Hub that the manifest was read from (`Artifact.commit`).
        token: Hub token.
        cache_dir: Where downloads are kept.
        local_files_only: Whether only the cache may be used.

    Raises:
        ArtifactNotFoundError: The manifest names no such document, or it is not there.
        ArtifactFormatError: It is too large, or no file.
        ArtifactIntegrityError: Its bytes are not those that were attached.
    """
    place = resolve_source(
        source, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only
    )
    expected = manifest.attachments.get(name)
    if expected is None:
        raise ArtifactNotFoundError(
            f"the manifest of {source} names no document {name}; expected one of "
            f"{', '.join(manifest.attachments) or 'none'}; give an artifact that was saved with it"
        )
    data = read_bytes(place.path(name), origin=place.describe(name), max_bytes=max_bytes)
    if sha256_of(data) != expected:
        fresh = place.fetch_again(name)
        data = data if fresh is None else read_bytes(fresh, origin=place.describe(name), max_bytes=max_bytes)
    if sha256_of(data) != expected:
        raise ArtifactIntegrityError(
            f"{place.describe(name)} is corrupted or was exchanged: its sha256 is {sha256_of(data)}, "
            f"expected {expected}; download or save the artifact again, from a source that you trust"
        )
    return bytes(data)
