"""Being asked to stop: SIGTERM and SIGINT let the step finish and the run save, then the process ends.

The exit codes are the shell's: 128 and the signal's number, so 143 for SIGTERM (what schedulers send before
they take a machine away) and 130 for SIGINT (Ctrl-C). A second Ctrl-C ends the run at once.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType


class TrainingStopped(SystemExit):
    """A run ended because its process was asked to stop; its code is what the process exits with.

    Args:
        number: The signal.
        step: Steps that are done.
        checkpoint: Where the run goes on from; None if it had nowhere to save.
    """

    def __init__(self, number: int, step: int, checkpoint: Path | None) -> None:
        super().__init__(128 + number)
        self.step, self.checkpoint = step, checkpoint


@contextmanager
def stop_signals() -> Iterator[Callable[[], int]]:
    """Within this context the yielded function says which signal asked to stop; 0 if none did.

    Only the main thread can watch signals; in another one nothing is ever asked.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return
    asked = 0

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked == signal.SIGINT and number == signal.SIGINT:
            signal.default_int_handler(number, frame)
        asked = number

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
