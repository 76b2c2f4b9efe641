"""A Hub that takes what is pushed: answers the real client inside this process, and keeps the files."""

# ruff: noqa: ARG002 (every action is asked with repository, name and request)

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

httpx = pytest.importorskip("httpx2")
COMMIT = "c" * 40
START = "a" * 40
LIMIT = 10_000_000
"""Room of a regular upload; larger files would need the LFS protocol, which this Hub does not speak."""


@dataclass
class TakingHub:
    """What was pushed, and what the Hub had before.

    Attributes:
        created: Repositories that were asked for, with the request's body.
        commits: Body of the header line of each commit.
        files: Content of every file, by repository and path.
        heads: Commit of each branch.
        tags: Commit of each tag.
        settings: Every change of a repository's settings.
        calls: Method and path of every request.
        exists: Whether the repository is there before it is made.
        public: Whether it is public.
        meanwhile: Run before a commit is taken: what somebody else does at that moment.
        spoil: What is really sent of a file, for the n-th time.
        account: Whose token it is; None does not know it.
        by_lfs: Whether files are uploaded by git-LFS, whose storage refuses them.
        down: Whether reading fails inside of the Hub.
    """

    created: list[dict[str, object]] = field(default_factory=list)
    commits: list[dict[str, str]] = field(default_factory=list)
    files: dict[tuple[str, str], bytes] = field(default_factory=dict)
    heads: dict[str, str] = field(default_factory=lambda: {"main": START})
    tags: dict[str, str] = field(default_factory=dict)
    settings: list[dict[str, object]] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    exists: bool = False
    public: bool = True
    meanwhile: Callable[[], None] = lambda: None
    spoil: Callable[[str, bytes, int], bytes] = lambda name, data, count: data
    sent: list[str] = field(default_factory=list)
    account: dict[str, Any] | None = field(default_factory=lambda: {"name": "me"})
    by_lfs: bool = False
    down: bool = False

    def __call__(self, request: httpx.Request) -> httpx.Response:
        """Answer one request of the client."""
        path = request.url.path
        self.calls.append(f"{request.method} {path}")
        special = self._special(path, request)
        if special is not None:
            return special
        if "/resolve/" in path:
            return self._resolve(request)
        if path == "/api/repos/create":
            body = json.loads(request.content)
            if not self.exists and not self.created:
                self.public = body.get("visibility") != "private"
            self.created.append(body)
            name = "/".join(part for part in (body.get("organization") or "me", body["name"]) if part)
            return httpx.Response(200, json={"url": f"https://huggingface.co/{name}", "id": name})
        if path == "/api/validate-yaml":
            return httpx.Response(200, json={"errors": [], "warnings": []})
        repo, action, *rest = self._parts(path)
        answer: Callable[..., httpx.Response] = getattr(self, f"_{action}", self._missing)
        return answer(repo, "/".join(rest), request)

    def _special(self, path: str, request: httpx.Request) -> httpx.Response | None:
        """What is about no repository, or goes wrong."""
        if self.down and request.method in ("GET", "HEAD"):
            return httpx.Response(500)
        if path == "/api/whoami-v2":
            return httpx.Response(200, json=self.account) if self.account else httpx.Response(401)
        if path.endswith(".git/info/lfs/objects/batch"):
            return self._batch(json.loads(request.content))
        return httpx.Response(403) if path.startswith("/storage/") else None

    @staticmethod
    def _parts(path: str) -> list[str]:
        owner, name, *rest = path.removeprefix("/api/models/").split("/")
        return [f"{owner}/{name}", *(rest or ["revision", "main"])]

    def _missing(self, *_: Any) -> httpx.Response:
        return httpx.Response(404, headers={"X-Error-Code": "EntryNotFound"})

    def _revision(self, repo: str, name: str, request: httpx.Request) -> httpx.Response:
        commit = self.heads.get(name, name if name in self.heads.values() else None)
        if commit is None:
            return httpx.Response(404, headers={"X-Error-Code": "RevisionNotFound"})
        names = [{"rfilename": path} for owner, path in self.files if owner == repo]
        return httpx.Response(
            200, json={"id": repo, "sha": commit, "private": not self.public, "siblings": names}
        )

    def _tree(self, repo: str, name: str, request: httpx.Request) -> httpx.Response:
        rows = []
        held = {path: data for (owner, path), data in self.files.items() if owner == repo}
        for path, data in held.items():
            digest = hashlib.sha256(data).hexdigest()
            lfs = {"oid": digest, "size": len(data), "pointerSize": 1}
            rows.append({"type": "file", "path": path, "size": len(data), "oid": digest, "lfs": lfs})
        return httpx.Response(200, json=rows)

    def _refs(self, repo: str, name: str, request: httpx.Request) -> httpx.Response:
        tags = [{"name": tag, "ref": f"refs/tags/{tag}", "targetCommit": at} for tag, at in self.tags.items()]
        return httpx.Response(200, json={"branches": [], "converts": [], "tags": tags})

    def _branch(self, repo: str, name: str, request: httpx.Request) -> httpx.Response:
        self.heads[name] = self.heads["main"]
        return httpx.Response(200, json={})

    def _tag(self, repo: str, name: str, request: httpx.Request) -> httpx.Response:
        self.tags[json.loads(request.content)["tag"]] = name
        return httpx.Response(200, json={})

    def _settings(self, repo: str, name: str, request: httpx.Request) -> httpx.Response:
        self.settings.append(json.loads(request.content))
        return httpx.Response(200, json={})

    def _preupload(self, repo: str, name: str, request: httpx.Request) -> httpx.Response:
        asked = json.loads(request.content)["files"]
        assert all(file["size"] < LIMIT for file in asked)
        mode = "lfs" if self.by_lfs else "regular"
        told = [{"path": file["path"], "uploadMode": mode, "shouldIgnore": False} for file in asked]
        return httpx.Response(200, json={"files": told})

    def _batch(self, asked: dict[str, Any]) -> httpx.Response:
        objects = [
            {**item, "actions": {"upload": {"href": f"https://huggingface.co/storage/{item['oid']}"}}}
            for item in asked["objects"]
        ]
        return httpx.Response(200, json={"transfer": "basic", "objects": objects})

    def _commit(self, repo: str, branch: str, request: httpx.Request) -> httpx.Response:
        self.meanwhile()
        lines = [json.loads(line) for line in request.content.splitlines()]
        header = lines[0]["value"]
        if header.get("parentCommit") not in (None, self.heads[branch]):
            return httpx.Response(412, json={"error": "A commit has happened since. Please refresh."})
        self.commits.append(header)
        for entry in lines[1:]:
            value = entry["value"]
            if entry["key"] == "file":
                self.files[repo, value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "deletedFile":
                del self.files[repo, value["path"]]
        self.heads[branch] = COMMIT
        pull = {"pullRequestUrl": f"https://huggingface.co/{repo}/discussions/1"}
        return httpx.Response(
            200,
            json={
                "commitUrl": f"https://huggingface.co/{repo}/commit/{COMMIT}",
                "commitOid": COMMIT,
                "success": True,
                **(pull if request.url.params.get("create_pr") == "1" else {}),
            },
        )

    def _resolve(self, request: httpx.Request) -> httpx.Response:
        _, owner, name, _, revision, path = request.url.path.split("/", 5)
        data = self.files.get((f"{owner}/{name}", path))
        commit = self.heads.get(revision, revision)
        if data is None:
            return httpx.Response(404, headers={"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        headers = {
            "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
            "X-Repo-Commit": commit,
            "Content-Length": str(len(data)),
        }
        if request.method == "HEAD":
            return httpx.Response(200, headers=headers)
        self.sent.append(path)
        return httpx.Response(200, headers=headers, content=self.spoil(path, data, self.sent.count(path)))

    def hold(self, repo: str, folder: Path, *, inside: str = "") -> None:
        """Have the files of a folder, as if they had been pushed before."""
        for path in folder.rglob("*"):
            if path.is_file():
                self.files[repo, f"{inside}{path.relative_to(folder).as_posix()}"] = path.read_bytes()

    def names(self, repo: str) -> set[str]:
        """Paths of a repository's files."""
        return {path for owner, path in self.files if owner == repo}

    def checkout(self, repo: str, folder: Path) -> Path:
        """Write the files of a repository to a folder, as a stranger's download would."""
        for (name, path), content in self.files.items():
            if name == repo:
                target = folder / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
        return folder


@pytest.fixture
def hub(serve_hub: Callable[[object], None], monkeypatch: pytest.MonkeyPatch) -> TakingHub:
    """The Hub of this test, in place of the network; the client does not pause between its tries."""
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    taking = TakingHub()
    serve_hub(taking)
    return taking


@pytest.fixture
def saved(tiny_artifact: Any, tmp_path: Path) -> Path:
    """An artifact's folder of the test's own."""
    from diffusers_erasure.artifacts.store import save_artifact

    return save_artifact(tiny_artifact, tmp_path / "saved")
