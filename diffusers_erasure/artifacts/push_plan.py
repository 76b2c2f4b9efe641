"""Publishing: everything that goes to the Hub goes through here, as a list of files that was checked first.

    push_plan   what is to be pushed: path, bytes and sha256 of each file, and the card; needs no network
    upload      one commit of exactly these files

A plan is made of a folder that was read through the door of its kind: artifacts in `publishing`, text
encoders in `encoders.publishing`, whole pipelines in `pipelines.publishing`. Only files that the folder's own
table names are listed; program code and pickles are refused, other files are left out and named.

The card: a `README.md` that lies in the folder is pushed as it is; without one it is rendered from the
manifest and the report. On the Hub it ends with a comment that holds its own sha256, by which the next push
knows that nobody has edited it there; `upload` refuses to replace one that a person wrote or changed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Self

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from diffusers_erasure.durable import file_sha256
from diffusers_erasure.errors import ConfigError, PublishError

from .card_marks import mark_pushed, without_push_mark
from .files import CARD_NAME, other_files, runs_code
from .hub import check_subfolder, is_repo_id

CARDS = "diffusers_erasure.cards"
"""Cards lie above this room, so their renderers are found by name."""
Kind = Literal["artifact", "encoder", "pipeline"]
_SHOWN = 5


@dataclass(frozen=True)
class PushOptions:
    """How to push; the same for all kinds.

    Attributes:
        private: Whether a new repository is private; asked of an existing public one, the push is refused.
        gated: Who may download: those who ask ("auto") or those who are let in ("manual").
        revision: Branch, made from the main one if it is missing.
        tag: Tag for the commit; one that exists is never moved.
        commit_message: First line of the commit.
        commit_description: The rest of it.
        create_pr: Open a pull request instead of committing to the branch.
        subfolder: Folder inside the repository.
        keep_card: Leave a `README.md` that is on the Hub as it is.
        replace_card: Replace it also if a person wrote or changed it.
        replace_weights: Delete weights on the Hub that lie beside the pushed ones and are not among them.
        token: Access token; None takes the one you are logged in with.
    """

    private: bool | None = None
    gated: Literal["auto", "manual"] | None = None
    revision: str | None = None
    tag: str | None = None
    commit_message: str | None = None
    commit_description: str | None = None
    create_pr: bool = False
    subfolder: str | None = None
    keep_card: bool = False
    replace_card: bool = False
    replace_weights: bool = False
    token: str | bool | None = field(default=None, repr=False)

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """Options from keyword arguments.

        Raises:
            ConfigError: One is unknown, or two exclude each other.
        """
        known = [one.name for one in fields(cls)]
        for name in given:
            if name not in known:
                raise ConfigError(
                    f"push_to_hub got an unknown argument {name}={given[name]!r}; expected some of "
                    f"{', '.join(known)}; leave it out"
                )
        options = cls(**given)
        options.check()
        return options

    def check(self) -> None:
        """Refuse options that cannot be met together."""
        if self.keep_card and self.replace_card:
            raise ConfigError("keep_card and replace_card exclude each other; expected one; leave one out")
        if self.create_pr and self.tag is not None:
            raise ConfigError(
                f"the tag {self.tag!r} cannot be put on a pull request, whose commit is on no branch yet; "
                "expected one of tag and create_pr; tag it after merging"
            )
        if self.gated not in (None, "auto", "manual"):
            raise ConfigError(f"gated={self.gated!r}; expected 'auto' or 'manual'; give one, or neither")
        if self.revision is not None and re.fullmatch(r"[0-9a-f]{40}", self.revision):
            raise ConfigError(f"revision={self.revision!r} is a commit; expected a branch; give its name")
        check_subfolder(self.subfolder)
        check_token(self.token)


@dataclass(frozen=True)
class PushFile:
    """One file of a push.

    Attributes:
        path: Its path in the repository.
        source: The file, or its content.
        size: Its bytes.
        sha256: What its bytes have to be.
    """

    path: str
    source: Path | bytes
    size: int
    sha256: str


@dataclass(frozen=True)
class PushPlan:
    """What one push uploads.

    Attributes:
        repo_id: "organisation/name".
        kind: What it is.
        files: Every file, sorted by path.
        left_out: Files of the folder that are not pushed.
        card: Where the card comes from, in words.
    """

    repo_id: str
    kind: Kind
    files: tuple[PushFile, ...]
    left_out: tuple[str, ...]
    card: str

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


@dataclass(frozen=True)
class Card:
    """The text of a card, and where it comes from in words."""

    content: bytes
    origin: str


def make_plan(
    root: Path,
    names: Iterable[str],
    repo_id: str,
    options: PushOptions,
    *,
    kind: Kind,
    card: Card | None,
    origin: str = "",
    shas: Mapping[str, str] | None = None,
) -> PushPlan:
    """The plan for some files of a folder.

    Args:
        root: The folder.
        names: Paths of the files in it that are pushed.
        repo_id: Where to.
        options: Where to in there.
        kind: What they are.
        card: The card; None if it is among the names.
        origin: Where the card comes from, if it is among the names.
        shas: sha256 of those files whose bytes were compared with one already.

    Raises:
        ConfigError: The id is none.
        PublishError: A file holds code or a pickle.
    """
    check_repo_id(repo_id)
    inside = check_subfolder(options.subfolder)
    start = f"{inside}/" if inside else ""
    known = {*names}
    others = tuple(name for name in other_files(root, {*known, CARD_NAME}) if not _hidden(name))
    hostile = [name for name in (*sorted(known), *others) if runs_code(root / name)]
    if hostile:
        raise PublishError(
            f"{root} holds program code or pickles ({', '.join(hostile[:_SHOWN])}); expected weights in "
            "safetensors and documents only, since both run on the machines of those who load them; move "
            "them out of the folder"
        )
    files = [_file(root / name, f"{start}{name}", (shas or {}).get(name)) for name in known]
    if card is not None:
        content = mark_pushed(card.content)
        digest = hashlib.sha256(content).hexdigest()
        files.append(PushFile(f"{start}{CARD_NAME}", content, len(content), digest))
    ordered = tuple(sorted(files, key=lambda file: file.path))
    return PushPlan(repo_id, kind, ordered, others, origin if card is None else card.origin)


def check_repo_id(repo_id: str) -> None:
    """Refuse what is no id of a repository, also by the client's rules, which it applies too late."""
    try:
        validate_repo_id(repo_id)
        fault = "" if is_repo_id(repo_id) else "the form is another"
    except HFValidationError as error:
        fault = str(error)
    if fault:
        raise ConfigError(f"{repo_id!r} is no Hub id ({fault}); expected organisation/name; give one")


def check_token(token: str | bool | None) -> None:
    """Refuse what is no token, without repeating it: a client would show it in its own error."""
    if isinstance(token, str) and re.fullmatch(r"[!-~]+", token) is None:
        raise ConfigError(
            f"the token of {len(token)} characters cannot be one: it is empty, or holds a space, a line "
            "break or a letter beyond ASCII; expected hf_ and letters; copy it again"
        )


def rendered_card(renderer: str, *arguments: Any, **options: Any) -> Card:
    """A card from the function of that name among the cards."""
    render = getattr(import_module(CARDS), renderer)
    text: str = render(*arguments, **options)
    return Card(text.encode(), "rendered from what the folder says of itself")


def own_card(folder: Path) -> Card | None:
    """The `README.md` of a folder, without the comment of an earlier push; None if it has none."""
    path = folder / CARD_NAME
    if not path.is_file():
        return None
    return Card(without_push_mark(path.read_bytes()), "README.md of the folder")


def _file(path: Path, name: str, digest: str | None) -> PushFile:
    if not path.is_file():
        raise PublishError(f"there is no file {path}; expected it, since the push names it; save it again")
    return PushFile(name, path, path.stat().st_size, digest or file_sha256(path))


def _hidden(name: str) -> bool:
    """Caches and drafts that programs leave (`.cache`, `.DS_Store`): nobody means to push them."""
    return any(part.startswith(".") for part in Path(name).parts)
