"""Where the files of an artifact come from: a folder, or a repository on the Hub.

The only module that reads through `huggingface_hub`; `upload` is the one that writes. A revision is resolved
to a commit once, with the manifest, and every other file is fetched from that commit. A file that turns out
to be corrupted is removed from the cache and fetched once more; the client itself checks only its length.
Errors of the client, and of the HTTP library under it, become errors of our tree.
"""

import hashlib
import logging
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count, pairwise
from pathlib import Path, PurePosixPath
from typing import Any, cast

from huggingface_hub import HfApi, get_session, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from diffusers_erasure.durable import file_sha256
from diffusers_erasure.errors import ArtifactIntegrityError, ArtifactNotFoundError, ConfigError

logger = logging.getLogger(__name__)

_REPO_ID = re.compile(r"[A-Za-z0-9][\w.\-]{0,95}/[A-Za-z0-9][\w.\-]{0,95}", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_AT_ONCE = 8
"""Files that are compared with their hashes at the same time."""


def _transport_error() -> type[Exception]:
    """Base of the errors of the HTTP library that this version of the client uses (httpx, httpx2, requests).

    Found among the parents of the client's own error, since the library's name changes from version to
    version. Errors of the operating system, which some of these libraries raise, are caught beside it.
    """
    for parent in HfHubHTTPError.__mro__:
        if parent.__module__.partition(".")[0] not in ("huggingface_hub", "builtins"):
            return cast(type[Exception], parent)
    return OSError


TRANSPORT_ERROR = _transport_error()
"""What a connection that breaks raises; see `_transport_error`."""


@dataclass
class FolderSource:
    """Files of a local folder."""

    folder: Path

    @property
    def label(self) -> str:
        """How messages call it."""
        return str(self.folder)

    def optional(self, name: str, *, surely: bool = False) -> Path | None:  # noqa: ARG002
        """Where a file lies, if it is there."""
        path = self.folder / name
        return path if path.is_file() else None

    def path(self, name: str) -> Path:
        """Where a file lies."""
        return self.folder / name

    def checked(self, name: str) -> Path:
        """The same as `path`: a local folder does not say what its files should be."""
        return self.path(name)

    def describe(self, name: str) -> str:
        """The file in words."""
        return str(self.folder / name)

    def fetch_again(self, name: str) -> Path | None:  # noqa: ARG002
        """Nobody to ask for a better copy."""
        return None

    def altered_in_transit(self, path: Path) -> bool:  # noqa: ARG002
        """A local folder says nothing about what its files should be."""
        return False


@dataclass
class HubSource:
    """Files of a Hub repository, all from one commit."""

    repo: str
    subfolder: str | None = None
    revision: str | None = None
    token: str | bool | None = field(default=None, repr=False)
    cache_dir: str | Path | None = None
    local_files_only: bool = False
    force_download: bool = False
    commit: str | None = field(default=None, init=False)
    _forced: set[str] = field(default_factory=set, init=False, repr=False)
    _uncompared: Iterator[int] = field(default_factory=count, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse a revision that the client would make a path outside of the cache of."""
        if self.revision is not None and not _is_revision(self.revision):
            raise ConfigError(
                f"{self.repo} was asked for at revision {self.revision!r}, which cannot be one; expected a "
                "branch, tag or commit; check revision=, or what the manifest names as its base"
            )

    @property
    def label(self) -> str:
        """How messages call it, with the commit once one is known."""
        place = f"{self.repo}/{self.subfolder}" if self.subfolder else self.repo
        return f"{place} at {self.commit}" if self.commit else place

    def optional(self, name: str, *, surely: bool = False) -> Path | None:
        """Fetch a file if the repository has it (or, without a connection, the cache).

        Args:
            name: The file.
            surely: None has to mean that the repository has no such file. Otherwise it also stands for a file
                that is not in the cache while the Hub is out of reach.

        Raises:
            ArtifactNotFoundError: There is no such repository or revision; or, if `surely`, nobody can say.
        """
        try:
            return self.path(name)
        except ArtifactNotFoundError as error:
            if is_absent(error) or (is_unknown(error) and not surely):
                return None
            raise

    def path(self, name: str) -> Path:
        """Fetch a file (or find it in the cache); the first one settles the commit.

        With `force_download` each file is fetched anew once: whoever asks for it again gets that copy.
        """
        path = self._download(name, force=self.force_download and name not in self._forced)
        self._forced.add(name)
        if self.commit is None:
            self.commit = _commit_of(path)
            logger.info("%s: revision %s is commit %s", self.repo, self.revision or "main", self.commit)
        return path

    def checked(self, name: str) -> Path:
        """Fetch a file whose bytes agree with the hash that the Hub gave it, if need be once more.

        For files that no manifest names; it reads the whole file.

        Raises:
            ArtifactIntegrityError: They do not agree, and a second download is not allowed or no better.
        """
        path = self.path(name)
        if not self.altered_in_transit(path):
            return path
        found = file_sha256(path)
        path = self.fetch_again(name) or path
        if self.altered_in_transit(path):
            raise ArtifactIntegrityError(
                f"{self.describe(name)} differs from the hash that the Hub gave it: found {found}, at last "
                f"{file_sha256(path)}; expected {path.resolve().name}; download it again over a connection "
                "that can be trusted"
            )
        return path

    def names(self) -> tuple[str, ...] | None:
        """Paths of all files of the revision; None without a connection, or where the Hub does not answer."""
        if self.local_files_only:
            return None
        api = HfApi(token=self.token, library_name="diffusers_erasure")
        try:
            with _our_errors(self, "the list of files"):
                return tuple(api.list_repo_files(self.repo, revision=self.commit or self.revision))
        except ArtifactNotFoundError as error:
            logger.warning("%s; only what is in the cache is used", error)
            return None

    def fetch_all(
        self, names: Iterable[str], *, but: Iterable[str] = (), local_files_only: bool = False
    ) -> Path:
        """Fetch files side by side, or find them in the cache; returns the folder that holds them.

        Args:
            names: Their paths, or patterns of them.
            but: Patterns of files that are left out.
            local_files_only: Whether only the cache may be used, also where the source says otherwise.

        Raises:
            ArtifactNotFoundError: One is not to be had.
        """
        with _our_errors(self, "a file"):
            found = snapshot_download(
                self.repo,
                revision=self.commit or self.revision,
                allow_patterns=list(names),
                ignore_patterns=list(but),
                token=self.token,
                cache_dir=self.cache_dir,
                local_files_only=self.local_files_only or local_files_only,
                force_download=self.force_download and not self.local_files_only,
                library_name="diffusers_erasure",
            )
        return Path(found)

    def check_all(self, names: Iterable[str]) -> None:
        """Compare files with the hashes that the Hub gave them, several at once; mend each once.

        Raises:
            ArtifactIntegrityError: One stays corrupted.
        """
        once = replace(self, force_download=False)
        once.commit, once._uncompared = self.commit, self._uncompared
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(once.checked, names))

    def describe(self, name: str) -> str:
        """The file in words."""
        where = f"{self.subfolder}/{name}" if self.subfolder else name
        return f"{where} of {self.repo} at revision {self.commit or self.revision or 'main'}"

    def fetch_again(self, name: str) -> Path | None:
        """Remove the cached copy and download the file once more; None where that is not allowed."""
        if self.local_files_only:
            return None
        link = self._download(name, force=False)
        blob = link.resolve()
        logger.warning("%s is corrupted in the cache (%s); downloading it again", self.describe(name), blob)
        link.unlink(missing_ok=True)
        blob.unlink(missing_ok=True)
        return self._download(name, force=True)

    def altered_in_transit(self, path: Path) -> bool:
        """Whether a cached file differs from the hash that the Hub gave it as its name.

        A cache without symbolic links keeps no hashes; that nothing is compared is told once.
        """
        blob = path.resolve()
        if blob.parent.name != "blobs" or not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", blob.name):
            if next(self._uncompared) == 0:
                logger.warning(
                    "files of %s are not compared with the Hub's hashes: expected links to files that are "
                    "named by them, found %s; what a manifest names is compared with that all the same; to "
                    "have the rest compared, use a cache with symbolic links (on Windows: developer mode) "
                    "and download again (force_download=True)",
                    self.label,
                    blob,
                )
            return False
        if len(blob.name) == 64:
            return file_sha256(blob) != blob.name
        data = blob.read_bytes()
        git = hashlib.sha1(b"blob %d\0" % len(data), usedforsecurity=False)
        git.update(data)
        return git.hexdigest() != blob.name

    def _download(self, name: str, *, force: bool) -> Path:
        with _our_errors(self, name):
            found = hf_hub_download(
                self.repo,
                name,
                subfolder=self.subfolder,
                revision=self.commit or self.revision,
                token=self.token,
                cache_dir=self.cache_dir,
                local_files_only=self.local_files_only,
                force_download=force and not self.local_files_only,
                library_name="diffusers_erasure",
            )
        return Path(found)


Source = FolderSource | HubSource


def is_absent(error: ArtifactNotFoundError) -> bool:
    """Whether fetching a file failed because the Hub said that there is none."""
    return isinstance(error.__cause__, EntryNotFoundError) and not is_unknown(error)


def is_unknown(error: ArtifactNotFoundError) -> bool:
    """Whether it failed because the file is not in the cache and the Hub was not asked or did not answer."""
    return isinstance(error.__cause__, LocalEntryNotFoundError)


def is_repo_id(text: str) -> bool:
    """Whether a text has the form `owner/name`."""
    return _REPO_ID.fullmatch(text) is not None and not text.endswith((".git", ".safetensors", ".json"))


def check_subfolder(subfolder: str | None) -> str | None:
    """A subfolder that stays inside of its repository, without slashes at its ends."""
    if not subfolder:
        return None
    parts = PurePosixPath(subfolder.replace("\\", "/")).parts
    if ".." in parts or subfolder.startswith(("/", "~")) or "\0" in subfolder:
        raise ConfigError(
            f"subfolder={subfolder!r} leaves the repository; expected a path below it; name the subfolder"
        )
    return "/".join(parts) or None


def _is_revision(text: str) -> bool:
    """Whether git allows a text as the name of a branch, tag or commit: then it leads out of no folder."""
    return (
        re.fullmatch(r"[^\x00-\x20\x7f~^:?*\[\\]+", text) is not None
        and ".." not in text
        and all(part and not part.startswith(".") for part in text.split("/"))
    )


def _refuse_paths(response: Any) -> None:
    """Refuse an answer about a file whose hash or commit, which name files in the cache, lead out of it."""
    if "/resolve/" not in str(response.request.url):
        return
    for header in ("etag", "x-linked-etag", "x-repo-commit"):
        value = response.headers.get(header, "")
        if re.search(r"[/\\\0]", value.removeprefix("W/")):
            raise ArtifactIntegrityError(
                f"{response.request.url} was answered with {header}: {value[:80]!r}; expected a hash, which "
                "becomes a file's name; use another server (HF_ENDPOINT)"
            )


def _guard_session() -> None:
    hooks = get_session().event_hooks
    if _refuse_paths not in hooks["response"]:
        get_session().event_hooks = {**hooks, "response": [*hooks["response"], _refuse_paths]}


def _commit_of(path: Path) -> str | None:
    parents = [parent.name for parent in path.parents]
    found = [name for name, above in pairwise(parents) if above == "snapshots"]
    return found[0] if found and _COMMIT.fullmatch(found[0]) else None


@contextmanager
def _our_errors(source: HubSource, name: str) -> Iterator[None]:
    """Turn errors of the Hub client into ours; order matters, since they inherit from each other."""
    repo, revision = source.repo, source.commit or source.revision or "main"
    _guard_session()
    try:
        yield
    except GatedRepoError as error:
        raise ArtifactNotFoundError(
            f"{repo} is gated and your token has no access; expected a token whose account was let in; "
            "accept the conditions on its page, then log in with `hf auth login` or pass token=..."
        ) from error
    except RepositoryNotFoundError as error:
        raise ArtifactNotFoundError(
            f"there is no repository {repo!r} on the Hub, or it is private, and no folder of that name; "
            "expected a folder or an id such as org/name; check the spelling, or pass token=..."
        ) from error
    except RevisionNotFoundError as error:
        raise ArtifactNotFoundError(
            f"{repo} has no revision {revision!r}; expected a branch, tag or commit of it; check revision="
        ) from error
    except LocalEntryNotFoundError as error:
        raise ArtifactNotFoundError(
            f"{source.describe(name)} is not in the local cache, and {_silence(error)}; expected a cached "
            "copy or a connection; download it once with a connection (local_files_only=False, without "
            "HF_HUB_OFFLINE)"
        ) from error
    except EntryNotFoundError as error:
        raise ArtifactNotFoundError(
            f"there is no {source.describe(name)}; expected the repository of an artifact; check subfolder= "
            "and revision= (a whole pipeline is loaded by its from_pretrained, a LoRA by load_lora_weights)"
        ) from error
    except (OSError, ValueError, RuntimeError, TRANSPORT_ERROR) as error:  # also of the client's transfers
        raise ArtifactNotFoundError(
            f"{source.describe(name)} could not be fetched ({type(error).__name__}: {str(error)[:300]}); "
            "expected an answer from the Hub; check the connection and the id, then try again"
        ) from error


def _silence(error: LocalEntryNotFoundError) -> str:
    """Why the Hub told nothing, as far as the client says: it was not asked, or did not answer."""
    reason = error.__cause__
    if reason is None or isinstance(reason, OfflineModeIsEnabled):
        return "the Hub was not asked, since this is offline"
    return f"the Hub did not answer as it should ({type(reason).__name__}: {str(reason)[:200]})"
