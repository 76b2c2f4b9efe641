"""The one place that writes to the Hub: a plan becomes one commit, or nothing.

The branch's head is read first and given along as the parent of the commit, so that a push never mixes with
one that somebody else made meanwhile: the Hub refuses it. A repository is made private or gated before
anything is in it.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    constants,
    get_token,
    hf_hub_download,
)
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from diffusers_erasure._version import __version__
from diffusers_erasure.errors import ArtifactError, ErasureError, PublishError

from .card_marks import is_as_pushed
from .files import CARD_NAME
from .hub import TRANSPORT_ERROR
from .lookalikes import PICKLES
from .manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, parse_manifest
from .push_plan import PushFile, PushOptions, PushPlan
from .signature import SIGNATURE_NAME

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo

logger = logging.getLogger(__name__)

WEIGHTS = (".safetensors", ".safetensors.index.json", ".bin.index.json", *PICKLES)
HELD_IN_MEMORY = 16 * 2**20
_MOVED = 412
_SHOWN = 5
_SUBJECTS = {
    "artifact": "Upload a concept erasure",
    "encoder": "Upload an erased text encoder",
    "pipeline": "Upload an erased pipeline",
}


@dataclass(frozen=True)
class Pushed:
    """A push that the Hub took.

    Attributes:
        url: Address of the commit, or of the pull request.
        repo_id: The repository.
        commit: The commit.
        revision: Its branch.
        tag: Its tag.
        pull_request: Whether a pull request was opened; with nothing to change there is none.
    """

    url: str
    repo_id: str
    commit: str
    revision: str
    tag: str | None
    pull_request: bool = False


@dataclass(frozen=True)
class Head:
    """What a branch holds before a push."""

    commit: str | None
    names: frozenset[str]


def publish(plan: PushPlan, options: PushOptions) -> Pushed:
    """Upload what a plan lists, in one commit on top of the head that was read before.

    Args:
        plan: What to upload.
        options: How.

    Raises:
        PublishError: The Hub did not take it, the branch has moved, or it would overwrite what it must not.
    """
    options.check()
    if constants.HF_HUB_OFFLINE:
        raise PublishError(
            f"{plan.repo_id} cannot be pushed to: HF_HUB_OFFLINE is set; expected a connection; unset it, or "
            "list the files with --dry_run"
        )
    branch = options.revision or "main"
    api = HfApi(token=options.token, library_name="diffusers_erasure", library_version=__version__)
    with _our_errors(plan.repo_id, branch):
        repo = api.create_repo(plan.repo_id, private=options.private, exist_ok=True).repo_id
        head = _head(api, repo, branch, options)
        _check_tag(api, repo, options.tag)
        _check_kept_card(repo, plan, head, options)
        files = _without_kept_card(plan, head, options)
        _check_card(repo, files, head, options)
        operations = [_addition(file) for file in files]
        gone = _superseded(repo, files, head, options)
        if options.gated is not None:
            api.update_repo_settings(repo, gated=options.gated)
        commit: CommitInfo = api.create_commit(
            repo,
            [*operations, *(CommitOperationDelete(name) for name in gone)],
            commit_message=options.commit_message or _SUBJECTS[plan.kind],
            commit_description=options.commit_description,
            revision=branch,
            create_pr=options.create_pr,
            parent_commit=head.commit,
        )
    _put_tag(api, repo, options.tag, commit.oid)
    logger.info("%s: pushed %d files as commit %s", repo, len(files), commit.oid)
    url = commit.pr_url or commit.commit_url
    return Pushed(str(url), repo, commit.oid, branch, options.tag, commit.pr_url is not None)


def check_login(token: str | bool | None = None) -> str:
    """Name of the account that a push would be made by; asks the Hub, which takes the token or does not.

    Args:
        token: Access token; None takes the one you are logged in with.

    Raises:
        PublishError: Nobody is logged in, the Hub does not know the token, it can only read, or there is no
            connection.
    """
    if constants.HF_HUB_OFFLINE:
        raise PublishError(
            "nothing can be pushed: HF_HUB_OFFLINE is set; expected a connection; unset it, or push later "
            "with `diffusers-erasure push`"
        )
    if not isinstance(token, str) and get_token() is None:
        raise PublishError(
            "nothing can be pushed: nobody is logged in to the Hub; expected a token with the right to "
            "write; log in with `hf auth login`, or give a token"
        )
    try:
        told = HfApi(token=token, library_name="diffusers_erasure").whoami()
        name, access = str(told["name"]), told.get("auth", {}).get("accessToken", {})
    except HfHubHTTPError as error:
        code = getattr(error.response, "status_code", None)
        raise PublishError(
            f"the Hub does not take the token ({code}); expected one with the right to write; log in with "
            "`hf auth login`, or give another token"
        ) from error
    except (OSError, ValueError, KeyError, TRANSPORT_ERROR) as error:
        raise PublishError(
            f"the Hub does not say whose the token is ({type(error).__name__}); expected a connection; check "
            "it, or push later with `diffusers-erasure push`"
        ) from error
    if access.get("role") == "read":
        raise PublishError(
            f"the token of {name} can only read; expected one with the right to write; make one in the "
            "account's settings, then log in with `hf auth login`"
        )
    return name


def _head(api: HfApi, repo: str, branch: str, options: PushOptions) -> Head:
    """What the branch holds; a branch that is missing is made first."""
    try:
        info: Any = api.model_info(repo, revision=branch)
    except RevisionNotFoundError:
        if branch == "main":
            return Head(None, frozenset())  # a repository without any commit
        api.create_branch(repo, branch=branch, exist_ok=True)
        info = api.model_info(repo, revision=branch)
    if options.private and info.private is False:
        raise PublishError(
            f"{repo} exists and is public, but the push was asked to be private; expected a private or a new "
            "repository; make it private in its settings first, or leave --private out"
        )
    return Head(info.sha, frozenset(entry.rfilename for entry in info.siblings or ()))


def _check_tag(api: HfApi, repo: str, tag: str | None) -> None:
    if tag is not None and any(ref.name == tag for ref in api.list_repo_refs(repo).tags):
        raise PublishError(
            f"{repo} has a tag {tag!r} already; expected a new one, since who pinned it must get what they "
            "pinned; choose another tag"
        )


def _put_tag(api: HfApi, repo: str, tag: str | None, commit: str) -> None:
    if tag is None:
        return
    try:
        api.create_tag(repo, tag=tag, revision=commit)
    except (HFValidationError, OSError, TRANSPORT_ERROR) as error:
        raise PublishError(
            f"{repo} was pushed as commit {commit}, but the Hub refused the tag {tag!r} "
            f"({str(error)[:300]}); expected a new tag of a legal name; put it on that commit by hand"
        ) from error


def _without_kept_card(plan: PushPlan, head: Head, options: PushOptions) -> list[PushFile]:
    return [
        file
        for file in plan.files
        if not (options.keep_card and _is_card(file.path) and file.path in head.names)
    ]


def _check_kept_card(repo: str, plan: PushPlan, head: Head, options: PushOptions) -> None:
    """Refuse to leave a card on the Hub where the manifest that is pushed names another one.

    Readers compare the card with the manifest, and with a key they refuse what differs.
    """
    for file in plan.files:
        if not (options.keep_card and _is_card(file.path) and isinstance(file.source, Path)):
            continue
        if file.path in head.names:
            found = hashlib.sha256(_fetch(repo, file.path, head, options)).hexdigest()
            if found != file.sha256:
                raise PublishError(
                    f"{file.path} of {repo} cannot be kept: the artifact has another card attached, whose "
                    "sha256 its manifest names, so readers would refuse it; expected the same card; attach "
                    "that one (and sign again), or pass replace_card (--replace_card)"
                )


def _check_card(repo: str, files: list[PushFile], head: Head, options: PushOptions) -> None:
    """Refuse to replace a card that a person wrote or changed."""
    for file in files:
        if not _is_card(file.path) or file.path not in head.names or options.replace_card:
            continue
        old = _fetch(repo, file.path, head, options)
        digest = hashlib.sha256(old).hexdigest()
        if (
            digest != file.sha256
            and not is_as_pushed(old)
            and digest != _named_card(repo, file, head, options)
        ):
            raise PublishError(
                f"{file.path} of {repo} was written or changed by a person since the last push; expected one "
                "that a push left there; pass keep_card (--keep_card) to leave it, or replace_card "
                "(--replace_card) to put the new card in its place"
            )


def _named_card(repo: str, file: PushFile, head: Head, options: PushOptions) -> str | None:
    """The sha256 of the card by the manifest that lies beside it on the Hub, if that names it."""
    name = str(PurePosixPath(file.path).with_name(MANIFEST_NAME))
    if name not in head.names:
        return None
    try:
        data = _fetch(repo, name, head, options)[: MAX_MANIFEST_BYTES + 1]
        return parse_manifest(data, origin=f"{name} of {repo}").attachments.get(CARD_NAME)
    except ArtifactError:
        return None  # what lies there is no manifest of ours, so it names no card


def _fetch(repo: str, name: str, head: Head, options: PushOptions) -> bytes:
    with tempfile.TemporaryDirectory() as scratch:
        found = hf_hub_download(repo, name, revision=head.commit, token=options.token, cache_dir=scratch)
        return Path(found).read_bytes()


def _superseded(repo: str, files: list[PushFile], head: Head, options: PushOptions) -> list[str]:
    """Files of the branch to delete in the same commit: an old signature, and replaced weights.

    Weights that would stay beside the new ones are read by loaders as if they belonged to them.
    """
    pushed = {file.path for file in files}
    folders = {PurePosixPath(path).parent for path in pushed}
    beside = sorted(name for name in head.names - pushed if PurePosixPath(name).parent in folders)
    weights = [name for name in beside if name.endswith(WEIGHTS)]
    if weights and not options.replace_weights:
        raise PublishError(
            f"{repo} holds {len(weights)} files of weights that are not part of this push "
            f"({', '.join(weights[:_SHOWN])}); expected none, since they would be loaded beside or in place "
            "of the new ones; push to another repository or subfolder, or pass replace_weights "
            "(--replace_weights) to delete them in the same commit"
        )
    return weights + [name for name in beside if PurePosixPath(name).name == SIGNATURE_NAME]


def _addition(file: PushFile) -> CommitOperationAdd:
    """One file of the commit, if it still has the bytes that were checked."""
    source = file.source
    if isinstance(source, Path) and file.size <= HELD_IN_MEMORY:
        source = source.read_bytes()
    addition = CommitOperationAdd(file.path, source)
    found = addition.upload_info.sha256.hex()
    if found != file.sha256:
        raise PublishError(
            f"{file.source if isinstance(file.source, Path) else file.path} was changed while it was pushed: "
            f"its sha256 is {found}, expected {file.sha256}; nothing was uploaded; push again"
        )
    return addition


def _is_card(path: str) -> bool:
    return PurePosixPath(path).name == CARD_NAME


@contextmanager
def _our_errors(repo: str, branch: str) -> Iterator[None]:
    """Turn errors of the Hub client into ours; order matters, since they inherit from each other."""
    try:
        yield
    except RepositoryNotFoundError as error:
        raise PublishError(
            f"the Hub does not let you write to {repo}, or there is no such organisation; expected a token "
            "with the right to write; log in with `hf auth login`, or pass token=..."
        ) from error
    except HfHubHTTPError as error:
        raise _refused(repo, branch, error) from error
    except (OSError, RuntimeError, TRANSPORT_ERROR) as error:
        raise _not_through(repo, error) from error
    except ValueError as error:  # an id or an answer of the wrong form
        if isinstance(error, ErasureError):
            raise
        raise _not_through(repo, error) from error


def _not_through(repo: str, error: Exception) -> PublishError:
    reason = error.__cause__ or error  # a failed upload of one file hides its reason behind the file's name
    told = f"{error}: {reason}" if reason is not error else str(error)
    return PublishError(
        f"the push to {repo} did not go through ({type(reason).__name__}: {' '.join(told.split())[:300]}); "
        "expected an answer from the Hub; check the connection and the id, then push again"
    )


def _refused(repo: str, branch: str, error: HfHubHTTPError) -> PublishError:
    code = getattr(error.response, "status_code", None)
    if code == _MOVED:
        return PublishError(
            f"the branch {branch} of {repo} has moved since it was read: someone pushed meanwhile; expected "
            "it unchanged; nothing was committed; look at what was pushed, then push again"
        )
    if code in (401, 403):
        return PublishError(
            f"the Hub does not let you write to {repo} ({code}); expected a token with the right to write; "
            "log in with `hf auth login`, pass token=..., or use create_pr (--create_pr)"
        )
    return PublishError(
        f"the Hub refused the push to {repo} ({code}: {str(error)[:300]}); expected it to be taken; follow "
        "what it says, then push again"
    )
