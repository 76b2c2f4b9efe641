"""Git repositories in the layout of a Hub: what a server serves, and what a push is written into.

A repository lies at `models/<owner>/<name>`. A commit goes in through `git fast-import`, one process each.
Large and binary files are kept as on the Hub: the commit holds a git-LFS pointer, the content lies under
`.git/lfs/objects` by its sha256. So a server names small files by their git hash, the others by their sha256.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

LFS_SUFFIXES = (".safetensors", ".bin", ".png")
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size}\n"
POINTER_SIZES = range(120, 151)
"""olah reads a file of these sizes as text, in search of a pointer: one of bytes goes into LFS."""
GIT_ENVIRONMENT = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "a stranger",
    "GIT_AUTHOR_EMAIL": "stranger@example.org",
    "GIT_COMMITTER_NAME": "a stranger",
    "GIT_COMMITTER_EMAIL": "stranger@example.org",
}


@dataclass(frozen=True)
class Repositories:
    """The folder of all repositories."""

    root: Path

    def path(self, repo: str) -> Path:
        """Where a repository `owner/name` lies."""
        return self.root / "models" / repo

    def exists(self, repo: str) -> bool:
        """Whether there is such a repository."""
        return (self.path(repo) / ".git").is_dir()

    def create(self, repo: str) -> None:
        """Make an empty repository, unless there is one."""
        if not self.exists(repo):
            self.path(repo).mkdir(parents=True)
            self._git(repo, "init", "--quiet", "--initial-branch=main")

    def commit(
        self,
        repo: str,
        files: Mapping[str, bytes],
        *,
        branch: str = "main",
        deleted: tuple[str, ...] = (),
        message: str = "Add files",
    ) -> str:
        """Add or replace files on a branch, made if it is new; returns the commit.

        Args:
            repo: `owner/name`; made if it is new.
            files: Content by path.
            branch: Branch that moves on, or `refs/pr/N`; a new one begins at `main` if that exists.
            deleted: Paths to remove.
            message: Of the commit.
        """
        self.create(repo)
        parent = self.head(repo, branch) or self.head(repo, "main")
        ref = branch if branch.startswith("refs/") else f"refs/heads/{branch}"
        stream = [f"commit {ref}\n".encode()]
        stream.append(b"committer a stranger <stranger@example.org> now\n")
        stream.append(_data(message.encode()))
        if parent is not None:
            stream.append(f"from {parent}\n".encode())
        stream.extend(f"D {path}\n".encode() for path in deleted)
        for path, content in files.items():
            stream.append(f"M 100644 inline {path}\n".encode())
            stream.append(_data(self._stored(repo, path, content)))
        self._git(repo, "fast-import", "--quiet", "--date-format=now", stdin=b"".join(stream))
        head = self.head(repo, branch)
        if head is None:
            raise RuntimeError(f"git made no commit on {branch} of {repo}")
        return head

    def commit_folder(self, repo: str, folder: Path, *, inside: str = "", **options: str) -> str:
        """Commit all files of a folder, below `inside` if that is given; returns the commit."""
        prefix = f"{inside}/" if inside else ""
        files = {
            prefix + path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        return self.commit(repo, files, **options)  # type: ignore[arg-type]

    def tag(self, repo: str, name: str, revision: str = "main") -> None:
        """Give a revision a name that stays."""
        self._git(repo, "tag", name, revision)

    def branch(self, repo: str, name: str, revision: str = "main") -> None:
        """Begin a branch at a revision."""
        self._git(repo, "branch", name, revision)

    def pull_request(self, repo: str, revision: str = "main") -> int:
        """Open a pull request at a revision; returns its number N, for `refs/pr/N`."""
        number = 1 + len(self._git(repo, "for-each-ref", "refs/pr").splitlines())
        self._git(repo, "update-ref", f"refs/pr/{number}", revision)
        return number

    def head(self, repo: str, revision: str) -> str | None:
        """Commit that a branch, tag or commit names; None if there is none."""
        asked = ("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
        found = self._git(repo, *asked, check=False).decode().strip()
        return found or None

    def names(self, repo: str, revision: str = "main") -> list[str]:
        """Paths of all files of a revision."""
        return self._git(repo, "ls-tree", "-r", "--name-only", revision).decode().splitlines()

    def read(self, repo: str, path: str, revision: str = "main") -> bytes:
        """Content of a file, through its pointer if it has one."""
        stored = self._git(repo, "cat-file", "blob", f"{revision}:{path}")
        if not stored.startswith(POINTER.partition("\n")[0].encode()):
            return stored
        oid = stored.decode().partition("sha256:")[2][:64]
        return self.object(repo, oid).read_bytes()

    def object(self, repo: str, oid: str) -> Path:
        """Where the content of an LFS file lies."""
        return self.path(repo) / ".git" / "lfs" / "objects" / oid[:2] / oid[2:4] / oid

    def store(self, repo: str, content: bytes) -> str:
        """Keep the content of an LFS file; returns its sha256."""
        oid = hashlib.sha256(content).hexdigest()
        path = self.object(repo, oid)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return oid

    def _stored(self, repo: str, path: str, content: bytes) -> bytes:
        if not is_large(path, content):
            return content
        return POINTER.format(oid=self.store(repo, content), size=len(content)).encode()

    def _git(self, repo: str, *arguments: str, stdin: bytes = b"", check: bool = True) -> bytes:
        done = subprocess.run(
            ["git", "-C", str(self.path(repo)), *arguments],
            input=stdin,
            capture_output=True,
            check=False,
            env={**os.environ, **GIT_ENVIRONMENT},
        )
        if check and done.returncode != 0:
            raise RuntimeError(f"git {arguments[0]} in {repo}: {done.stderr.decode()}")
        return done.stdout


def is_large(path: str, content: bytes) -> bool:
    """Whether the Hub would keep a file in LFS: by its kind, as its `.gitattributes` says, or by its size."""
    return path.endswith(LFS_SUFFIXES) or len(content) > 10_000_000 or len(content) in POINTER_SIZES


def _data(content: bytes) -> bytes:
    return b"data %d\n%s\n" % (len(content), content)
