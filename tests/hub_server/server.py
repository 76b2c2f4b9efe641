"""The foreign server as a process of its own: found, started on loopback, surely ended."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import REPOSITORY

ENVIRONMENT = "HUB_SERVER_PYTHON"
"""Variable that names the Python of the server's environment; `.venv-hub/bin/python` unless it is set."""
REQUIRED = "HUB_SERVER_REQUIRED"
"""Variable that makes a missing server a failure; `make test` sets it."""
HERE = Path(__file__).resolve().parent
START_SECONDS = 60


def server_python() -> Path | None:
    """Python of the server's environment, or None where it was not set up."""
    path = Path(os.environ.get(ENVIRONMENT) or REPOSITORY / ".venv-hub" / "bin" / "python")
    return path if path.is_file() else None


def is_required() -> bool:
    """Whether a missing server is a failure."""
    return os.environ.get(REQUIRED, "") not in ("", "0")


@contextmanager
def running_server(python: Path, repositories: Path) -> Iterator[str]:
    """Address of a server of these repositories, which ends with the block, or with this process.

    Args:
        python: Interpreter of the environment that olah is installed in.
        repositories: Folder with `models/<owner>/<name>`.
    """
    with tempfile.TemporaryDirectory() as state, socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound and not listened to: whoever connects is refused
        upstream = f"127.0.0.1:{nobody.getsockname()[1]}"
        with Path(state, "stderr").open("w+b") as errors:
            process = subprocess.Popen(
                [python, HERE / "serve.py", repositories, state, upstream],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=state,
                env=_environment(),
            )
            try:
                yield f"http://127.0.0.1:{_port(process, errors.name)}"
            finally:
                process.kill()
                process.communicate()


def _environment() -> dict[str, str]:
    """This process's, without what would lead the server's Python to the project's packages."""
    left_out = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}
    return {name: value for name, value in os.environ.items() if name not in left_out}


def _port(process: subprocess.Popen[bytes], errors: str) -> int:
    if process.stdout is None:
        raise RuntimeError("the server's output is not a pipe")
    line = process.stdout.readline()
    if not line.strip().isdigit():
        process.kill()
        process.wait(START_SECONDS)
        raise RuntimeError(f"the Hub server did not start: {Path(errors).read_text()[-2000:]}")
    return int(line)
