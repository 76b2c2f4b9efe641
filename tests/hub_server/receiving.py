"""The writing half of a Hub, which olah lacks: takes what the real client pushes, and writes it into git.

It stands in the place of the network through the client factory that `huggingface_hub` offers for that. What
the client writes is answered here, as the Hub answers it: repositories, branches, tags and settings, git-LFS
uploads, and commits as lines of JSON on top of a parent: the branch's head, or where a pull request begins,
which is all that a token without the right to write may ask for. What it reads is passed on to the foreign
server, so a push meets what a reader would.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx2
import huggingface_hub
import pytest
from huggingface_hub import constants

from tests.hub_server.repositories import Repositories, is_large

TOKEN, READER = "hf_test", "hf_reader"
"""Tokens of the owner, and of somebody who may read and propose."""
UPLOADS = "/uploads/"
ATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n*.png filter=lfs diff=lfs merge=lfs -text\n"
WRITES = re.compile(
    r"/api/models/(?P<repo>[^/]+/[^/]+)/(?P<what>preupload|commit|tag|branch|settings)/?(?P<rest>.*)"
)
INFORMATION = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)(?:/revision/[^/]+)?")
BATCH = re.compile(r"/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch")


def _nothing() -> None:
    """Nobody pushes meanwhile."""


@dataclass
class ReceivingHub:
    """What takes pushes.

    Attributes:
        repositories: Where commits go.
        endpoint: The foreign server of the same repositories, which answers what is read.
        created: Body of each request for a repository.
        settings: Settings by repository.
        private: Repositories that were asked for as private ones.
        log: Method and path of each request.
        before_commit: Called before a commit is taken: the moment when somebody else may push.
    """

    repositories: Repositories
    endpoint: str
    created: list[dict[str, Any]] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)
    log: list[str] = field(default_factory=list)
    before_commit: Callable[[], object] = _nothing

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        """Answer one request of the client."""
        path = request.url.path
        self.log.append(f"{request.method} {path}")
        if request.method in ("GET", "HEAD"):
            return self._read(request)
        if path.startswith(UPLOADS):
            return self._upload(path, request.content)
        return self._write(path, request)

    def _write(self, path: str, request: httpx2.Request) -> httpx2.Response:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        proposes = request.url.params.get("create_pr") == "1"
        harmless = proposes or path == "/api/validate-yaml" or BATCH.fullmatch(path)
        if token != TOKEN and not (token == READER and harmless):
            told = {"error": "You do not have the rights to do this."}
            return httpx2.Response(403 if token == READER else 401, json=told)
        if path == "/api/repos/create":
            return self._create(json.loads(request.content))
        if path == "/api/validate-yaml":
            return httpx2.Response(200, json={"errors": [], "warnings": []})
        if found := BATCH.fullmatch(path):
            return self._batch(found["repo"], json.loads(request.content))
        found = WRITES.fullmatch(path)
        if found is None or not self.repositories.exists(found["repo"]):
            return httpx2.Response(404, headers={"X-Error-Code": "RepoNotFound"})
        what = "propose" if proposes and found["what"] == "commit" else found["what"]
        answer = getattr(self, f"_{what}")
        taken: httpx2.Response = answer(found["repo"], unquote(found["rest"]), request.content)
        return taken

    def _read(self, request: httpx2.Request) -> httpx2.Response:
        connection = HTTPConnection(urlsplit(self.endpoint).netloc, timeout=60)
        try:
            connection.request(request.method, request.url.raw_path.decode())
            response = connection.getresponse()
            content = response.read()
            drop = ("transfer-encoding", "connection")
            headers = {name: value for name, value in response.getheaders() if name.lower() not in drop}
            found = INFORMATION.fullmatch(request.url.path)
            if found and response.status == 200:
                content = self._with_visibility(found["repo"], content)
                headers.pop("content-length", None)
            return httpx2.Response(response.status, headers=headers, content=content)
        finally:
            connection.close()

    def _with_visibility(self, repo: str, content: bytes) -> bytes:
        """What the foreign server says of a repository, which to it is always public."""
        told = json.loads(content)
        return json.dumps({**told, "private": repo in self.private}).encode() if "sha" in told else content

    def _create(self, asked: dict[str, Any]) -> httpx2.Response:
        self.created.append(asked)
        repo = f"{asked.get('organization') or 'me'}/{asked['name']}"
        address = f"https://huggingface.co/{repo}"
        if self.repositories.exists(repo):
            told = {"error": "You already created this model repo", "url": address, "id": repo}
            return httpx2.Response(409, json=told)
        if asked.get("private") or asked.get("visibility") == "private":
            self.private.add(repo)
        self.repositories.commit(repo, {".gitattributes": ATTRIBUTES}, message="initial commit")
        return httpx2.Response(200, json={"url": address, "id": repo})

    def _preupload(self, _repo: str, _branch: str, content: bytes) -> httpx2.Response:
        asked = json.loads(content)["files"]
        modes = {file["path"]: _is_large(file["path"], file["size"]) for file in asked}
        files = [
            {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
            for path, large in modes.items()
        ]
        return httpx2.Response(200, json={"files": files})

    def _batch(self, repo: str, asked: dict[str, Any]) -> httpx2.Response:
        objects = [
            {
                "oid": item["oid"],
                "size": item["size"],
                "actions": {"upload": {"href": f"https://storage.invalid{UPLOADS}{repo}/{item['oid']}"}},
            }
            for item in asked["objects"]
        ]
        return httpx2.Response(200, json={"transfer": "basic", "objects": objects})

    def _upload(self, path: str, content: bytes) -> httpx2.Response:
        repo, _, oid = path.removeprefix(UPLOADS).rpartition("/")
        return httpx2.Response(200 if self.repositories.store(repo, content) == oid else 400)

    def _commit(self, repo: str, branch: str, content: bytes) -> httpx2.Response:
        self.before_commit()
        header, *lines = _lines(content)
        parent = header["value"].get("parentCommit")
        if parent is not None and parent != self.repositories.head(repo, branch):
            return httpx2.Response(
                412, json={"error": "A commit has happened since. Please refresh and try again."}
            )
        return httpx2.Response(200, json=self._committed(repo, branch, header["value"], lines))

    def _propose(self, repo: str, branch: str, content: bytes) -> httpx2.Response:
        """Open a pull request with the commit, on top of the parent that it names."""
        header, *lines = _lines(content)
        number = self.repositories.pull_request(repo, header["value"].get("parentCommit") or branch)
        told = self._committed(repo, f"refs/pr/{number}", header["value"], lines)
        address = f"https://huggingface.co/{repo}/discussions/{number}"
        return httpx2.Response(200, json={**told, "pullRequestUrl": address})

    def _committed(
        self, repo: str, branch: str, header: dict[str, Any], lines: list[dict[str, Any]]
    ) -> dict[str, Any]:
        files, pointers, deleted = {}, {}, []
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                pointers[value["path"]] = value["oid"]
            elif line["key"] == "deletedFile":
                deleted.append(value["path"])
        files.update(
            {path: self.repositories.object(repo, oid).read_bytes() for path, oid in pointers.items()}
        )
        message = "\n\n".join(part for part in (header["summary"], header.get("description")) if part)
        commit = self.repositories.commit(repo, files, branch=branch, deleted=tuple(deleted), message=message)
        address = f"https://huggingface.co/{repo}/commit/{commit}"
        return {"commitUrl": address, "commitOid": commit, "success": True}

    def _tag(self, repo: str, revision: str, content: bytes) -> httpx2.Response:
        name = json.loads(content)["tag"]
        if self.repositories.head(repo, f"refs/tags/{name}") is not None:
            return httpx2.Response(409, json={"error": "Tag already exists"})
        self.repositories.tag(repo, name, revision)
        return httpx2.Response(200)

    def _branch(self, repo: str, name: str, content: bytes) -> httpx2.Response:
        self.repositories.branch(repo, name, json.loads(content or b"{}").get("startingPoint", "main"))
        return httpx2.Response(200)

    def _settings(self, repo: str, _rest: str, content: bytes) -> httpx2.Response:
        self.settings.setdefault(repo, {}).update(json.loads(content))
        return httpx2.Response(200, json={})


def _lines(content: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in content.splitlines() if line.strip()]


def _is_large(path: str, size: int) -> bool:
    return is_large(path, bytes(min(size, 10_000_001)))


@contextmanager
def receiving(repositories: Repositories, endpoint: str) -> Iterator[ReceivingHub]:
    """Put a receiving Hub in the place of the network of this process."""
    hub = ReceivingHub(repositories, endpoint)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        huggingface_hub.set_client_factory(lambda: httpx2.Client(transport=httpx2.MockTransport(hub)))
        try:
            yield hub
        finally:
            huggingface_hub.set_client_factory(httpx2.Client)
            huggingface_hub.close_session()
