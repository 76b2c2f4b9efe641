"""Where the files of an artifact come from: a folder, or a repository on the Hub.

The only module that reads through `huggingface_hub`; `upload` is the one that writes. A revision is resolved
to a commit once, with the manifest, and every other file is fetched from that commit. A file that turns out
to be corrupted is removed from the cache and fetched once more; the client itself checks only its length.
Errors of the client become errors of our tree.
"""

import hashlib
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path, PurePosixPath

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from diffusers_erasure.errors import ArtifactIntegrityError, ArtifactNotFoundError, ConfigError

logger = logging.getLogger(__name__)

_REPO_ID = re.compile(r"[A-Za-z0-9][\w.\-]{0,95}/[A-Za-z0-9][\w.\-]{0,95}")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass
class FolderSource:
    """Files of a local folder."""

    folder: Path

    @property
    def label(self) -> str:
        """How messages call it."""
        return str(self.folder)

    def optional(self, name: str) -> Path | None:
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
    token: str | bool | None = None
    cache_dir: str | Path | None = None
    local_files_only: bool = False
    force_download: bool = False
    commit: str | None = field(default=None, init=False)

    @property
    def label(self) -> str:
        """How messages call it, with the commit once one is known."""
        place = f"{self.repo}/{self.subfolder}" if self.subfolder else self.repo
        return f"{place} at {self.commit}" if self.commit else place

    def optional(self, name: str) -> Path | None:
        """Fetch a file if the repository has it (or, without a connection, the cache)."""
        try:
            return self.path(name)
        except ArtifactNotFoundError as error:
            if isinstance(error.__cause__, EntryNotFoundError):
                return None
            raise

    def path(self, name: str) -> Path:
        """Fetch a file (or find it in the cache); the first one settles the commit."""
        path = self._download(name, force=self.force_download)
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
        """Whether a cached file differs from the hash that the Hub gave it as its name."""
        blob = path.resolve()
        if blob.parent.name != "blobs" or not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", blob.name):
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


def file_sha256(path: Path) -> str:
    """sha256 of a file, read piece by piece."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


def _commit_of(path: Path) -> str | None:
    parents = [parent.name for parent in path.parents]
    found = [name for name, above in pairwise(parents) if above == "snapshots"]
    return found[0] if found and _COMMIT.fullmatch(found[0]) else None


@contextmanager
def _our_errors(source: HubSource, name: str) -> Iterator[None]:
    """Turn errors of the Hub client into ours; order matters, since they inherit from each other."""
    repo, revision = source.repo, source.commit or source.revision or "main"
    try:
        yield
    except GatedRepoError as error:
        raise ArtifactNotFoundError(
            f"{repo} is gated and your token has no access; expected a token whose account was let in; "
            "accept the "
            f"conditions on its page, then log in with `hf auth login` or pass token=..."
        ) from error
    except RepositoryNotFoundError as error:
        raise ArtifactNotFoundError(
            f"there is no repository {repo!r} on the Hub, or it is private, and no folder of that name; "
            "expected a "
            "folder or an id such as org/name; check the spelling, or pass token=..."
        ) from error
    except RevisionNotFoundError as error:
        raise ArtifactNotFoundError(
            f"{repo} has no revision {revision!r}; expected a branch, tag or commit of it; check revision="
        ) from error
    except LocalEntryNotFoundError as error:
        raise ArtifactNotFoundError(
            f"{source.describe(name)} is not in the local cache and the Hub was not asked or did not "
            "answer; expected a "
            "cached copy or a connection; download it once with a connection (local_files_only=False)"
        ) from error
    except EntryNotFoundError as error:
        raise ArtifactNotFoundError(
            f"there is no {source.describe(name)}; expected the repository of an artifact; check subfolder= "
            "and "
            "revision= (a whole pipeline is loaded by its from_pretrained, a LoRA by load_lora_weights)"
        ) from error
    except (OfflineModeIsEnabled, HFValidationError, HfHubHTTPError, OSError) as error:
        raise ArtifactNotFoundError(
            f"{source.describe(name)} could not be fetched ({type(error).__name__}: {str(error)[:300]}); "
            "expected an "
            "answer from the Hub; check the connection and the id, then try again"
        ) from error
