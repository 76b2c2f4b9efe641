"""The files of an artifact one by one: what each is for, how large it is, and whether it is what it must be.

The weights and the canary are checked by the door; this is about what lies beside them, which loading does
not open: documents that the manifest names, card, signature, and files that belong to nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from diffusers_erasure.durable import file_sha256

from .hub import FolderSource, Source
from .lookalikes import PICKLES
from .manifest import MANIFEST_NAME, Manifest
from .signature import SIGNATURE_NAME

CARD_NAME = "README.md"
CODE = (".py", ".pyc", ".pyd", ".so", ".dll", ".dylib", ".sh", ".bat", ".ps1", ".exe", ".js", ".ipynb")
"""Files that run; with `PICKLES`, which run too, none of them is ever part of an artifact."""
ARCHIVES = (".npy", ".npz", ".pickle", ".joblib", ".dill", ".h5", ".msgpack")
"""Files that hold pickles as a rule, or may."""


class FileState(StrEnum):
    """What is known of a file's bytes."""

    AGREES = "as the manifest says"
    CHANGED = "changed"
    MISSING = "missing"
    UNNAMED = "not named by the manifest"


@dataclass(frozen=True)
class FileRecord:
    """One file of an artifact.

    Attributes:
        name: Its name.
        role: manifest, weights, canary, document, card, signature, or other.
        size: Its bytes; None if it is not there.
        sha256: What the manifest says, or for a file that it does not name, what was found.
        state: What is known of its bytes.
    """

    name: str
    role: str
    size: int | None
    sha256: str
    state: FileState


def document_records(place: Source, manifest: Manifest) -> list[FileRecord]:
    """The documents that a manifest names, fetched where they are on the Hub and compared with it."""
    return [
        _named(place, name, digest, "card" if name == CARD_NAME else "document")
        for name, digest in manifest.attachments.items()
    ]


def file_records(place: Source, manifest: Manifest) -> list[FileRecord]:
    """All files of an artifact; of a local folder also those that belong to nothing.

    The state of weights and canary is read from their bytes once more, so this may take a second.
    """
    canary = manifest.canary.file
    found = [_unnamed(place, MANIFEST_NAME, "manifest")]
    found += [
        _named(place, name, digest, "canary" if name == canary else "weights")
        for name, digest in manifest.files.items()
    ]
    found += document_records(place, manifest)
    for name, role in ((CARD_NAME, "card"), (SIGNATURE_NAME, "signature")):
        if name not in manifest.attachments and place.optional(name) is not None:
            found.append(_unnamed(place, name, role))
    if isinstance(place, FolderSource):
        known = {record.name for record in found}
        found += [_unnamed(place, name, "other") for name in other_files(place.folder, known)]
    return found


def other_files(folder: Path, known: set[str]) -> Iterator[str]:
    """Paths of the files below a folder that are not among the known ones, hidden ones included."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_dir() and name not in known:
            yield name


def runs_code(path: Path) -> bool:
    """Whether a file is program code or a pickle, by its name or by how it begins."""
    if path.name.casefold().endswith((*CODE, *PICKLES, *ARCHIVES)):
        return True
    with path.open("rb") as file:
        start = file.read(4)
    pickled = len(start) > 1 and start[0] == 0x80 and start[1] <= 5
    return pickled or start.startswith((b"PK\x03\x04", b"#!", b"\x7fELF", b"MZ"))


def _named(place: Source, name: str, expected: str, role: str) -> FileRecord:
    path = place.optional(name)
    if path is not None and file_sha256(path) != expected:
        path = place.fetch_again(name) or path
    if path is None:
        return FileRecord(name, role, None, expected, FileState.MISSING)
    state = FileState.AGREES if file_sha256(path) == expected else FileState.CHANGED
    return FileRecord(name, role, path.stat().st_size, expected, state)


def _unnamed(place: Source, name: str, role: str) -> FileRecord:
    path = place.path(name)
    return FileRecord(name, role, path.stat().st_size, file_sha256(path), FileState.UNNAMED)
