"""A Hub that takes what is pushed: answers the real client inside this process, and keeps the files."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

httpx = pytest.importorskip("httpx2")
COMMIT = "c" * 40


@dataclass
class TakingHub:
    """What was pushed.

    Attributes:
        created: Repositories that were asked for, with the request's body.
        commits: Body of the header line of each commit.
        files: Content of every file, by repository and path.
    """

    created: list[dict[str, object]] = field(default_factory=list)
    commits: list[dict[str, str]] = field(default_factory=list)
    files: dict[tuple[str, str], bytes] = field(default_factory=dict)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        """Answer one request of the client."""
        path = request.url.path
        if path == "/api/repos/create":
            body = json.loads(request.content)
            self.created.append(body)
            name = "/".join(part for part in (body.get("organization") or "me", body["name"]) if part)
            return httpx.Response(200, json={"url": f"https://huggingface.co/{name}", "id": name})
        if "/preupload/" in path:
            asked = json.loads(request.content)["files"]
            return httpx.Response(
                200,
                json={
                    "files": [
                        {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                        for file in asked
                    ]
                },
            )
        if path == "/api/validate-yaml":
            return httpx.Response(200, json={"errors": [], "warnings": []})
        if "/commit/" in path:
            return self._commit(path, request.content)
        return httpx.Response(404, headers={"X-Error-Code": "EntryNotFound"})

    def _commit(self, path: str, content: bytes) -> httpx.Response:
        repo = path.removeprefix("/api/models/").partition("/commit/")[0]
        for line in content.splitlines():
            entry = json.loads(line)
            if entry["key"] == "header":
                self.commits.append(entry["value"])
            elif entry["key"] == "file":
                value = entry["value"]
                self.files[repo, value["path"]] = base64.b64decode(value["content"])
        return httpx.Response(
            200,
            json={
                "commitUrl": f"https://huggingface.co/{repo}/commit/{COMMIT}",
                "commitOid": COMMIT,
                "success": True,
            },
        )

    def checkout(self, repo: str, folder: Path) -> Path:
        """Write the files of a repository to a folder, as a stranger's download would."""
        for (name, path), content in self.files.items():
            if name == repo:
                target = folder / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
        return folder


@pytest.fixture
def hub(serve_hub: Callable[[object], None]) -> TakingHub:
    """The Hub of this test, in place of the network."""
    taking = TakingHub()
    serve_hub(taking)
    return taking
