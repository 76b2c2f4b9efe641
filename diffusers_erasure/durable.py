"""Files and folders that are there whole or not at all, whatever stops the process or the machine.

What is written goes to a hidden sibling first, is flushed to the disk, and gets its own name in one step. A
reader sees the old content or the new one, never a part; a process that is killed leaves at most a sibling
that begins with a dot, which `sweep` removes.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import logging
import os
import secrets
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger(__name__)

PARTIAL, REPLACED, REMOVED = "partial", "replaced", "removed"
"""In names of siblings: one that is being written, one whose place another takes, one that goes away."""
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def write_whole(path: Path, content: bytes) -> None:
    """Write a file; its folder is made.

    Args:
        path: Its place; a file that is there is replaced.
        content: Its bytes.
    """
    with whole_file(path) as draft:
        draft.write_bytes(content)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give the block a place to write a file to, which gets its own name at the end.

    Args:
        path: Its place; a file that is there is replaced unless the block raises.

    Yields:
        The place to write to; nothing is there yet.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = _sibling(path, PARTIAL)
    try:
        yield draft
        sync(draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    sync(path.parent)


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Give the block an empty folder to fill, which gets its own name at the end.

    A folder that is there is exchanged in one system call where the platform has it. Elsewhere it is moved
    aside first, as `.<name>.replaced-...`, and moved back if its place cannot be taken. What was filled is
    kept then, and the error says where it lies.

    Args:
        target: Its place; a folder that is there is replaced, with all that it holds, unless the block
            raises.

    Yields:
        The folder to fill.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = _sibling(target, PARTIAL)
    filled = False
    try:
        draft.mkdir()
        yield draft
        for path in (*draft.rglob("*"), draft):
            sync(path)
        filled = True
    finally:
        if not filled:
            shutil.rmtree(draft, ignore_errors=True)
    _put_in_place(draft, target)


def remove_whole(folder: Path) -> None:
    """Take a folder away: first its name, so that nobody finds half of it."""
    if folder.exists():
        aside = _sibling(folder, REMOVED)
        folder.rename(aside)
        shutil.rmtree(aside)


def sweep(folder: Path, name: str = "*", *, older_than: float = 0.0) -> None:
    """Remove the folders that writers and removers which were killed have left.

    Args:
        folder: Where they lie.
        name: What they were, or were to be, called; a pattern.
        older_than: Seconds since they were last written to; others may still be at work.
    """
    for kind in (PARTIAL, REMOVED):
        for path in folder.glob(f".{name}.{kind}-*"):
            if path.is_dir() and time.time() - path.stat().st_mtime >= older_than:
                logger.info("removing %s, left by a process that did not finish", path)
                shutil.rmtree(path, ignore_errors=True)


def sync(path: Path) -> None:
    """Flush a file, or a folder's list of names, to the disk; Windows does the latter by itself."""
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def file_sha256(path: Path) -> str:
    """sha256 of a file, read piece by piece."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


def _put_in_place(draft: Path, target: Path) -> None:
    try:
        aside = _take_place(draft, target)
    except OSError as error:
        raise OSError(
            error.errno,
            f"{target} cannot be taken ({error.strerror}); expected a free place, or a folder that can "
            f"be moved; what was to lie there is whole: move it from {draft}",
        ) from error
    if aside == draft:
        shutil.rmtree(draft, ignore_errors=True)
    elif aside is not None:
        shutil.rmtree(aside)
    sync(target.parent)


def _take_place(draft: Path, target: Path) -> Path | None:
    """Give a filled folder its name; where that which had the name lies now."""
    if not target.exists():
        draft.replace(target)
        return None
    if not any(target.iterdir()):
        target.rmdir()  # Windows replaces no folder, not even an empty one
        try:
            draft.replace(target)
        except OSError:
            target.mkdir()
            raise
        return None
    if exchange(draft, target):
        return draft
    aside = _sibling(target, REPLACED)
    target.replace(aside)
    try:
        draft.replace(target)
    except OSError:
        aside.replace(target)
        raise
    return aside


def _sibling(path: Path, kind: str) -> Path:
    """A hidden name beside a path that no other process takes."""
    return path.with_name(f".{path.name}.{kind}-{os.getpid()}-{secrets.token_hex(4)}")
