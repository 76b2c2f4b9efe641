"""Saving artifacts so that a crash at any moment leaves the old one or the new one, never a mixture.

A save writes a sibling folder, flushes every file and the folder to disk, reads it back through the same door
that every loader uses, and only then gives it its name with one rename. An artifact that is already there is
exchanged in one system call where the platform has it, and removed afterwards.
"""

import ctypes
import errno
import hashlib
import logging
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from pydantic import JsonValue

from diffusers_erasure.errors import ArtifactIntegrityError, ArtifactNotFoundError, ConfigError

from .artifact import Artifact
from .door import load_artifact
from .edits import WholeEdit, check_values
from .manifest import MANIFEST_NAME, parse_manifest, render_manifest
from .signature import SIGNATURE_NAME

logger = logging.getLogger(__name__)

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,127}")
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_STALE_SECONDS = 3600


def save_artifact(artifact: Artifact, folder: str | Path, *, overwrite: bool = False) -> Path:
    """Write an artifact as a folder, all or nothing.

    Args:
        artifact: What to save.
        folder: The folder that shall hold it; its parents are made.
        overwrite: Whether an artifact that is already there may be replaced.

    Returns:
        The folder.
    """
    target = Path(folder).expanduser().resolve()
    _check_target(target, overwrite=overwrite)
    for component, edit in artifact.edits.items():
        check_values(edit.tensors, origin=f"the edit of {component}", whole=isinstance(edit, WholeEdit))
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(target)
    draft = target.parent / f".{target.name}.partial-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        _write_folder(artifact, draft)
        _read_back(artifact, draft)
        _put_in_place(draft, target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


def attach_file(
    folder: str | Path, name: str, data: bytes, *, evaluation: Mapping[str, JsonValue] | None = None
) -> Path:
    """Add a document (card, report, picture) to a saved artifact, and note its sha256 in the manifest.

    The artifact's digest stays as it was: documents describe an erasure, they are not part of it. A signature
    covers the manifest with its list of documents, so it is removed, with a warning; sign the folder again.

    Args:
        folder: A saved artifact.
        name: Name of the file; one that the artifact itself consists of is refused.
        data: Its content.
        evaluation: Summary of what was measured, to stand in the manifest.
    """
    root = Path(folder).expanduser().absolute()
    path = root / MANIFEST_NAME
    if not path.is_file():
        raise ArtifactNotFoundError(
            f"{root} holds no {MANIFEST_NAME}; expected the folder of a saved artifact; save the artifact "
            "first"
        )
    manifest = parse_manifest(path.read_bytes(), origin=str(path))
    if name in manifest.files or name in (MANIFEST_NAME, SIGNATURE_NAME) or not _PLAIN_NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} cannot be attached to {root}; expected a plain file name that is not part of the "
            "artifact; "
            "choose another name"
        )
    attachments = {**manifest.attachments, name: hashlib.sha256(data).hexdigest()}
    summary = dict(evaluation) if evaluation is not None else manifest.evaluation
    content = {**manifest.model_dump(), "attachments": attachments, "evaluation": summary}
    noted = render_manifest(type(manifest).model_validate(content))
    if noted != path.read_bytes():
        _remove_signature(root)
    replace_file(root / name, data)
    replace_file(path, noted)
    return root / name


def replace_file(path: Path, content: bytes) -> None:
    """Write a file so that a crash leaves the old one or the new one."""
    draft = path.with_name(f".{path.name}.partial-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        _write_file(draft, content)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _remove_signature(folder: Path) -> None:
    """Take away the signature of a manifest that is about to change: it would hold no more."""
    signature = folder / SIGNATURE_NAME
    if signature.is_file():
        signature.unlink()
        _sync_folder(folder)
        logger.warning(
            "%s was signed; its manifest changes, so the signature was removed; sign it again", folder
        )


def _check_target(target: Path, *, overwrite: bool) -> None:
    if not target.exists() and not target.is_symlink():
        return
    if not target.is_dir():
        raise ConfigError(
            f"{target} is a file; expected a folder to save the artifact in; choose another name"
        )
    if not any(target.iterdir()):
        return
    if not (target / MANIFEST_NAME).is_file():
        raise ConfigError(
            f"{target} holds files, but no artifact; expected an empty or new folder, since saving replaces "
            "the whole "
            "folder; choose another one"
        )
    if not overwrite:
        raise ConfigError(
            f"{target} already holds an artifact; expected a new folder; choose another one or pass "
            "overwrite=True"
        )


def _write_folder(artifact: Artifact, draft: Path) -> None:
    draft.mkdir()
    for name, content in {**artifact.documents, **artifact.file_bytes()}.items():
        _write_file(draft / name, content)
    _write_file(draft / MANIFEST_NAME, render_manifest(artifact.manifest))
    _sync_folder(draft)


def _read_back(artifact: Artifact, draft: Path) -> None:
    found = load_artifact(draft)
    if found.digest != artifact.digest:
        raise ArtifactIntegrityError(
            f"what was written to {draft} reads back as {found.digest}; expected {artifact.digest}; the "
            "disk or memory "
            "is faulty, or the artifact's tensors were changed after it was built; build it again"
        )


def _write_file(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _put_in_place(draft: Path, target: Path) -> None:
    """One rename where nothing stands in the way, one exchange where an artifact does."""
    if not target.exists() or not any(target.iterdir()):
        draft.replace(target)
    elif exchange(draft, target):
        shutil.rmtree(draft)
    else:
        aside = target.parent / f".{target.name}.replaced-{os.getpid()}-{secrets.token_hex(4)}"
        target.replace(aside)
        try:
            draft.replace(target)
        except OSError:
            aside.replace(target)
            raise
        shutil.rmtree(aside)
    _sync_folder(target.parent)


def exchange(first: Path, second: Path) -> bool:
    """Swap two folders in one system call; False where the platform or file system has none."""
    if not sys.platform.startswith("linux"):
        return False
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    if call(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP):
        return False
    raise OSError(code, os.strerror(code), str(first), None, str(second))


def _remove_stale(target: Path) -> None:
    """Remove what saves that were killed more than an hour ago left beside the target."""
    for left in target.parent.iterdir():
        ours = left.name.startswith(f".{target.name}.partial-") and left.is_dir()
        if ours and time.time() - left.stat().st_mtime > _STALE_SECONDS:
            logger.info("removing %s, left by a save that did not finish", left)
            shutil.rmtree(left, ignore_errors=True)
