"""Saving artifacts so that a crash at any moment leaves the old one or the new one, never a mixture.

A save writes a sibling folder, reads it back through the same door that every loader uses, and only then
gives it its name (`durable`).
"""

import glob
import hashlib
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path

from pydantic import JsonValue, ValidationError

from diffusers_erasure.durable import sweep, sync, whole_folder, write_whole
from diffusers_erasure.errors import (
    ArtifactFormatError,
    ArtifactIntegrityError,
    ArtifactNotFoundError,
    ConfigError,
)

from .artifact import Artifact
from .card_marks import outdated
from .door import load_artifact
from .edits import WholeEdit, check_values
from .files import CARD_NAME
from .manifest import MANIFEST_NAME, Manifest, parse_manifest, render_manifest
from .signature import SIGNATURE_NAME

logger = logging.getLogger(__name__)

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,127}")
_STALE_SECONDS = 3600


def save_artifact(artifact: Artifact, folder: str | Path, *, overwrite: bool = False) -> Path:
    """Write an artifact as a folder, all or nothing.

    Args:
        artifact: What to save.
        folder: The folder that shall hold it; its parents are made.
        overwrite: Whether an artifact that is already there may be replaced.

    Returns:
        The folder.

    Raises:
        ConfigError: The artifact cannot be put there; see `check_target`.
        ArtifactMismatchError: An edit holds nothing, only zeros, or values that are not finite.
        ArtifactError: What was written does not read back as the same artifact.
        OSError: The folder cannot be written.
    """
    target = Path(folder).expanduser().resolve()
    check_target(target, overwrite=overwrite)
    for component, edit in artifact.edits.items():
        check_values(edit.tensors, origin=f"the edit of {component}", whole=isinstance(edit, WholeEdit))
    sweep(target.parent, glob.escape(target.name), older_than=_STALE_SECONDS)
    with whole_folder(target) as draft:
        _write_folder(artifact, draft)
        _read_back(artifact, draft)
    return target


def attach_file(
    folder: str | Path, name: str, data: bytes, *, evaluation: Mapping[str, JsonValue] | None = None
) -> Path:
    """Add a document (card, report, picture) to a saved artifact, and note its sha256 in the manifest.

    The artifact's digest stays as it was: documents describe an erasure, they are not part of it. A signature
    covers the manifest with its list of documents, so it is removed, with a warning; sign the folder again.
    A card that tells of another report than this one is named in a warning, and cannot be pushed.

    Args:
        folder: A saved artifact.
        name: Name of the file; one that the artifact itself consists of is refused.
        data: Its content.
        evaluation: Summary of what was measured, to stand in the manifest.

    Raises:
        ArtifactNotFoundError: The folder holds no manifest.
        ArtifactError: Its manifest cannot be read.
        ConfigError: The name is no plain file name, or one that the artifact itself consists of; or the
            summary is not what a manifest can hold. The folder is left as it was.
        OSError: The folder cannot be written.
    """
    root = Path(folder).expanduser().absolute()
    path = root / MANIFEST_NAME
    if not path.is_file():
        raise ArtifactNotFoundError(
            f"{root} holds no {MANIFEST_NAME}; expected the folder of a saved artifact; save the artifact "
            "first"
        )
    manifest = parse_manifest(path.read_bytes(), origin=str(path))
    if name in manifest.files or name in (MANIFEST_NAME, SIGNATURE_NAME) or not _PLAIN_NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} cannot be attached to {root}; expected a plain file name that is not part of the "
            "artifact; choose another name"
        )
    attachments = {**manifest.attachments, name: hashlib.sha256(data).hexdigest()}
    summary = dict(evaluation) if evaluation is not None else manifest.evaluation
    noted = _noted(manifest, attachments, summary, origin=str(path))
    if noted != path.read_bytes():
        _remove_signature(root)
    write_whole(root / name, data)
    write_whole(path, noted)
    _warn_of_card(root, parse_manifest(noted, origin=str(path)))
    return root / name


def _noted(
    manifest: Manifest,
    attachments: Mapping[str, str],
    evaluation: Mapping[str, JsonValue] | None,
    *,
    origin: str,
) -> bytes:
    """The manifest's text with other documents, read once as every reader will before it is written."""
    content = {**manifest.model_dump(), "attachments": attachments, "evaluation": evaluation}
    try:
        text = render_manifest(Manifest.model_validate(content))
        parse_manifest(text, origin=origin)
    except (ValidationError, ArtifactFormatError) as error:
        raise ConfigError(
            f"with this document {origin} could not be read any more: {error}; expected an evaluation of "
            "JSON values, finite and not deeply nested, under short names; correct it and attach again"
        ) from error
    return text


def _warn_of_card(folder: Path, manifest: Manifest) -> None:
    """Say that the card was rendered before a report changed."""
    card = folder / CARD_NAME
    faults = outdated(card.read_bytes(), manifest) if card.is_file() else ()
    if faults:
        logger.warning(
            "the card %s tells of other reports than those that are attached (%s); make it again with "
            "`diffusers-erasure card %s%s`",
            card,
            "; ".join(faults),
            folder,
            " --attach" if CARD_NAME in manifest.attachments else "",
        )


def _remove_signature(folder: Path) -> None:
    """Take away the signature of a manifest that is about to change: it would hold no more."""
    signature = folder / SIGNATURE_NAME
    if signature.is_file():
        signature.unlink()
        sync(folder)
        logger.warning(
            "%s was signed; its manifest changes, so the signature was removed; sign it again", folder
        )


def check_target(target: Path, *, overwrite: bool) -> None:
    """Refuse a place where no artifact can be saved; asked again before work that would be lost.

    Args:
        target: Folder for the artifact.
        overwrite: Whether an artifact that is there may be replaced.

    Raises:
        ConfigError: It is a file, lies below one or in a folder that cannot be written to, holds other files,
            or an artifact that may not be replaced.
    """
    target = target.expanduser()
    if not target.exists() and not target.is_symlink():
        above = next(place for place in target.absolute().parents if place.exists())
        if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
            raise ConfigError(
                f"{target} cannot be made: {above} is {'a file' if above.is_file() else 'not writable'}; "
                "expected a folder that can be written to; choose another place"
            )
        return
    if not target.is_dir():
        raise ConfigError(
            f"{target} is a file; expected a folder to save the artifact in; choose another name"
        )
    if not any(target.iterdir()):
        return
    if not (target / MANIFEST_NAME).is_file():
        raise ConfigError(
            f"{target} holds files, but no artifact; expected an empty or new folder, since saving replaces "
            "the whole folder; choose another one"
        )
    if not overwrite:
        raise ConfigError(
            f"{target} exists already and holds an artifact; expected a new folder; choose another one, or "
            "say that it may be replaced (overwrite=True, --overwrite)"
        )


def _write_folder(artifact: Artifact, draft: Path) -> None:
    for name, content in {**artifact.documents, **artifact.file_bytes()}.items():
        (draft / name).write_bytes(content)
    (draft / MANIFEST_NAME).write_bytes(render_manifest(artifact.manifest))


def _read_back(artifact: Artifact, draft: Path) -> None:
    found = load_artifact(draft)
    if found.digest != artifact.digest:
        raise ArtifactIntegrityError(
            f"what was written to {draft} reads back as {found.digest}; expected {artifact.digest}; the disk "
            "or memory is faulty, or the artifact's tensors were changed after it was built; build it again"
        )
