"""Start olah, a Hub server that nobody here wrote, on a free loopback port; runs in olah's own environment.

    python serve.py REPOSITORIES STATE UPSTREAM

`REPOSITORIES` holds git repositories as `models/<owner>/<name>`, `STATE` takes olah's own files, `UPSTREAM`
is the `host:port` that stands for huggingface.co (a port where nobody listens). The one line on stdout is the
port. The server ends with its parent: when stdin closes.

olah 0.5.4 has three defects when it is offline, and `HubAnswers` stands in front of it for all: it does not
know the newest commit of a repository (so information without a revision answers 401), for a revision or a
file that is not there it answers 401 or 500 in place of the Hub's 404, and it takes the first slash for the
end of a revision, also in `refs/pr/1`, so that it is asked for the pull request's commit in its place.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import uvicorn
from olah import server
from olah.configs import OlahConfig
from olah.utils.logging import build_logger

REVISION = r"(refs/pr/\d+|[^/]+)"
INFORMATION = re.compile(rf"/api/models/([^/]+/[^/]+)(?:/(?:revision|tree|paths-info|commits)/{REVISION}.*)?")
FILE = re.compile(rf"/([^/]+/[^/]+)/resolve/{REVISION}/(.+)")


class HubAnswers:
    """ASGI application in front of olah that gives the Hub's answers where olah's differ."""

    def __init__(self, app: Callable[..., Awaitable[None]], repositories: Path) -> None:
        self.app, self.repositories = app, repositories

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Answer what is not there as the Hub does; pass everything else on."""
        path = scope.get("path", "")
        found = INFORMATION.fullmatch(path) or FILE.fullmatch(path)
        repo = self.repositories / "models" / found[1] if found else None
        if found and repo is not None and (repo / ".git").is_dir():
            revision = found[2] or "main"
            commit = self._git(repo, f"{revision}^{{commit}}")
            name = found[3] if found.re is FILE else None
            if commit is None:
                return await _not_found(send, "RevisionNotFound", f"Invalid rev id: {revision}")
            if name is not None and self._git(repo, f"{commit}:{name}") is None:
                return await _not_found(send, "EntryNotFound", f"{name} does not exist", commit)
            if found[2] is None:
                scope = _asking_for(scope, f"{path}/revision/main")
            elif "/" in revision:
                scope = _asking_for(scope, path[: found.start(2)] + commit + path[found.end(2) :])
        await self.app(scope, receive, send)
        return None

    @staticmethod
    def _git(repo: Path, what: str) -> str | None:
        asked = ["git", "-C", str(repo), "rev-parse", "--verify", "--quiet", what]
        done = subprocess.run(asked, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else None


def _asking_for(scope: dict[str, Any], path: str) -> dict[str, Any]:
    return {**scope, "path": path, "raw_path": quote(path).encode()}


async def _not_found(send: Any, code: str, message: str, commit: str | None = None) -> None:
    headers = {"x-error-code": code, "x-error-message": message, "content-length": "0"}
    if commit is not None:
        headers["x-repo-commit"] = commit
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": 404, "headers": pairs})
    await send({"type": "http.response.body", "body": b""})


def main(repositories: Path, state: Path, upstream: str) -> None:
    """Serve until stdin closes."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    config = OlahConfig()
    config.host, config.port = "127.0.0.1", port
    config.mirror_netloc = config.mirror_lfs_netloc = f"127.0.0.1:{port}"
    config.hf_scheme, config.hf_netloc, config.hf_lfs_netloc = "http", upstream, upstream
    config.repos_path, config.mirrors_path = str(state / "cache"), [str(repositories)]
    config.offline = True
    logger = build_logger("olah", "olah.log", logger_dir=str(state / "logs"))
    server.app.state.logger = server.logger = logger
    server.app.state.app_settings = server.AppSettings(config=config)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    print(port, file=sys.__stdout__, flush=True)
    application = HubAnswers(server.app, repositories)
    uvicorn.Server(uvicorn.Config(application, log_level="warning")).run(sockets=[listener])


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
