"""One process works in a folder at a time: whoever holds its lock.

The operating system keeps the lock and drops it when the last process that holds it ends, however it ends, so
no lock is ever stale: a run that was killed leaves nothing to clear away. A child that inherits the lock
keeps the folder claimed as long as it lives, even if the process that started it was killed. Whose the lock
is stands in the file, for a person to read.

Where there are no such locks (Windows, some network file systems), every folder can be claimed.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # pragma: no cover  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".claimed"
CAN_LOCK = fcntl is not None
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)


@contextmanager
def claimed(folder: Path) -> Iterator[int | None]:
    """Hold a folder, if nobody else does.

    Args:
        folder: Created if it is not there.

    Yields:
        The lock's file descriptor, for a child to inherit; None if somebody else holds the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if fcntl is not None:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
                return
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield descriptor
    finally:
        os.close(descriptor)


def holder(folder: Path) -> str:
    """Who holds a folder, in words, as far as that is written there."""
    try:
        return (folder / LOCK).read_text(encoding="utf-8").strip() or "unknown"
    except OSError:
        return "unknown"
