"""One process works on a cell at a time: whoever holds the lock of its folder.

The operating system keeps the lock and drops it when the last process that holds it ends, however it ends, so
no lock is ever stale: a run that was killed leaves nothing to clear away. The command that works on a cell
inherits the lock, so a cell stays claimed as long as its command lives, even if the run that started it was
killed. Whose the lock is stands in the file for a person; nothing reads it.

Where there are no such locks (Windows), every cell can be claimed, and processes share the work only by
`--shard`.
"""

from __future__ import annotations

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
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)
