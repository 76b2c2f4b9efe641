"""Check an artifact: its files, its documents, who signed it, and what it does to its base model.

    diffusers-erasure verify outputs/church-uce
    diffusers-erasure verify org/church-uce --key signer.pub.pem --concept church --min_version 1.2
    diffusers-erasure verify outputs/church-uce --pretrained_model_name_or_path CompVis/stable-diffusion-v1-4

Bytes, names, shapes and values are compared with the manifest; with --key the signature is checked too, and
with --concept, --method, --base and --min_version that it is the artifact that you expect: another one, or an
older one, of the same signer carries a valid signature as well. With a base model the erasure is put on it in
memory, and fingerprints and canary are compared. A document that was changed is a note, and a failure where
it is signed. Exit code 0: all that was checked agrees; 1: something does not; 2: it could not be checked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import tyro
from rich.table import Table
from rich.text import Text

from diffusers_erasure.artifacts.manifest import MANIFEST_NAME
from diffusers_erasure.errors import (
    ArtifactError,
    ArtifactFormatError,
    ArtifactIntegrityError,
    ArtifactMismatchError,
    ArtifactNotFoundError,
    BaseModelMismatchError,
    ConfigError,
    ErasureStateError,
    OtherArtifactError,
    SignatureError,
)

from . import console
from .flags import read_flags
from .opening import ArtifactSource

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

    from diffusers_erasure.artifacts.artifact import Artifact
    from diffusers_erasure.artifacts.signature import Trust

Result = TypeVar("Result")
MAX_CARD_BYTES = 2**24
GOOD, BAD, OPEN, NOTED = "agrees", "FAILED", "not checked", "note"
_COLOURS = {GOOD: "green", BAD: "bold red", OPEN: "dim", NOTED: "yellow"}
_CHECKS = (
    (OtherArtifactError, "what it is"),
    (SignatureError, "signature"),
    (ArtifactIntegrityError, "bytes"),
    (ArtifactNotFoundError, "files"),
    (ArtifactMismatchError, "names, shapes, values"),
    (ArtifactFormatError, "form"),
    (BaseModelMismatchError, "base"),
)


@dataclass(frozen=True)
class VerifyConfig(ArtifactSource):
    """What to check."""

    key: str | None = None
    """public key (PEM file) that must have signed it"""
    concept: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """concept that it must erase, and no others; give it once per concept"""
    method: str | None = None
    """method that it must come from"""
    base: str | None = None
    """id of the base model that it must name, with @revision if that matters; nothing is loaded"""
    min_version: str | None = None
    """lowest version that its signature must have; needs --key"""
    pretrained_model_name_or_path: str | None = None
    """base model to put it on in memory; `embedded` for the embedded pipeline"""

    def trust(self) -> Trust:
        """What is expected, with the key or without."""
        from diffusers_erasure.artifacts.signature import Trust

        return Trust(self.key or "", self.concept, self.method, self.base, self.min_version)


@dataclass(frozen=True)
class Check:
    """One line of the result."""

    name: str
    state: str
    detail: str


def main(argv: Sequence[str]) -> int:
    """Run `diffusers-erasure verify`."""
    config = read_flags(VerifyConfig, argv, "diffusers-erasure verify", __doc__)
    if config.min_version is not None and config.key is None:
        raise ConfigError(
            f"--min_version {config.min_version} without --key; expected the key, since the version stands "
            "in the signature; give --key PUBLIC.pem"
        )
    if config.key is not None:
        from diffusers_erasure.artifacts.keys import read_public_key

        read_public_key(config.key)
    config.place()
    checks = verify(config)
    _show(checks)
    return 1 if any(check.state == BAD for check in checks) else 0


def verify(config: VerifyConfig) -> list[Check]:
    """All checks, up to the first that fails."""
    checks: list[Check] = []
    config.place().path(MANIFEST_NAME)  # what cannot be reached has not failed
    artifact = _told(checks, lambda: _alone(config, checks))
    if config.pretrained_model_name_or_path is None:
        where = "give --pretrained_model_name_or_path to put it on its base"
        checks.append(Check("base and canary", OPEN, where))
    elif artifact is not None:
        pipe = _base(config, artifact)
        _told(checks, lambda: _on_base(config, pipe, artifact, checks))
    return checks


def _told(checks: list[Check], work: Callable[[], Result]) -> Result | None:
    """Do a part of the work; what it finds wrong becomes a check that failed."""
    try:
        return work()
    except (ArtifactError, ErasureStateError) as error:
        name = next((name for kind, name in _CHECKS if isinstance(error, kind)), "state")
        checks.append(Check(name, BAD, str(error)))
        return None


def _alone(config: VerifyConfig, checks: list[Check]) -> Artifact:
    """Everything that needs no base model."""
    artifact = config.open(config.trust() if config.key is not None else None)
    manifest = artifact.manifest
    tensors = sum(len(spec.tensors) for spec in manifest.components.values()) + len(manifest.canary.tensors)
    checks.append(Check("bytes", GOOD, f"{len(manifest.files)} files have the sha256 of the manifest"))
    checks.append(Check("names, shapes, values", GOOD, f"{tensors} tensors, all finite"))
    _signature(config, artifact, checks)
    _expected(config, artifact, checks)
    _documents(config, artifact, checks)
    return artifact


def _signature(config: VerifyConfig, artifact: Artifact, checks: list[Check]) -> None:
    from diffusers_erasure.artifacts.signature import SIGNATURE_NAME, parse_signature
    from diffusers_erasure.artifacts.trusting import read_signature

    place = config.place(artifact.commit)
    data = read_signature(place)
    if data is None:
        checks.append(Check("signature", OPEN, "it is not signed"))
        return
    found = parse_signature(data, origin=place.describe(SIGNATURE_NAME))
    said = f"version {found.version} by the key {found.key[:16]}, {found.created}"
    if config.key is None:
        checks.append(Check("signature", OPEN, f"it says {said}; give --key to check it"))
    else:
        checks.append(Check("signature", GOOD, said))


def _expected(config: VerifyConfig, artifact: Artifact, checks: list[Check]) -> None:
    """Concepts, method and base by the manifest; with a key the door has compared them already."""
    from diffusers_erasure.artifacts.signature import check_expected

    manifest, trust = artifact.manifest, config.trust()
    if config.key is None:
        check_expected(manifest, trust, signature=None, origin=artifact.origin)
    asked = [trust.concepts, trust.method, trust.base, trust.min_version]
    state = GOOD if any(asked) else OPEN
    if any(asked) and config.key is None:
        state = NOTED
    what = f"{', '.join(manifest.concept_names)} by {manifest.method}, for {manifest.base.id}"
    hint = {
        GOOD: "",
        OPEN: "; say what you expect with --concept, --method, --base, --min_version",
        NOTED: "; as expected, but only a signature (--key) binds it",
    }
    checks.append(Check("what it is", state, what + hint[state]))


def _documents(config: VerifyConfig, artifact: Artifact, checks: list[Check]) -> None:
    """Documents are no part of the erasure: one that was changed is a note, unless a signature covers it."""
    from diffusers_erasure.artifacts.files import FileState, document_records

    worst = BAD if config.key is not None else NOTED
    for record in document_records(config.place(artifact.commit), artifact.manifest):
        if record.state is FileState.AGREES:
            checks.append(Check(record.name, GOOD, "as it was attached"))
        else:
            verb = "was changed" if record.state is FileState.CHANGED else "is missing"
            detail = f"{record.name} {verb} after it was attached; attach it again"
            checks.append(Check(record.name, worst, detail))
    _card(config, artifact, checks)


def _card(config: VerifyConfig, artifact: Artifact, checks: list[Check]) -> None:
    """A card that tells of other reports than those that are attached."""
    from diffusers_erasure.artifacts.card_marks import outdated
    from diffusers_erasure.artifacts.files import CARD_NAME
    from diffusers_erasure.artifacts.safebytes import read_bytes

    place = config.place(artifact.commit)
    path = place.optional(CARD_NAME)
    if path is None:
        return
    card = read_bytes(path, origin=place.describe(CARD_NAME), max_bytes=MAX_CARD_BYTES)
    faults = outdated(bytes(card), artifact.manifest)
    if faults:
        checks.append(Check(CARD_NAME, NOTED, f"out of date: {'; '.join(faults)}; make the card again"))


def _base(config: VerifyConfig, artifact: Artifact) -> StableDiffusionPipeline | StableDiffusionXLPipeline:
    """The base model that was asked for, at the artifact's own revision if it is the one that it names."""
    from diffusers_erasure.pipelines.base import load_base_pipeline

    name, named = str(config.pretrained_model_name_or_path), artifact.manifest.base
    return load_base_pipeline(
        name,
        revision=named.revision if name == named.id else None,
        token=config.token,
        cache_dir=config.cache_dir,
        local_files_only=config.local_files_only,
    )


def _on_base(config: VerifyConfig, pipe: Any, artifact: Artifact, checks: list[Check]) -> None:
    import warnings

    from diffusers_erasure.artifacts.apply import ErasureTransferWarning, list_erasures, load_erasure
    from diffusers_erasure.artifacts.verify import ErasureState
    from diffusers_erasure.pipelines.verifying import verify_erasure

    base = config.pretrained_model_name_or_path
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ErasureTransferWarning)  # said below, as a check that failed
        load_erasure(pipe, artifact)
    transferred = any(applied.transfer for applied in list_erasures(pipe))
    named = artifact.manifest.base.id
    detail = f"{base} has the fingerprints of {named}"
    if transferred:
        detail = f"{base} has other weights than {named}: on it the erasure is a transfer; give {named}"
    checks.append(Check("base", BAD if transferred else GOOD, detail))
    report = verify_erasure(pipe, artifact)
    for part, found in report.components.items():
        state = GOOD if found.state is ErasureState.VERIFIED else BAD
        seen = f"{found.state.value}: expected {found.expected[:16]}, found {found.found[:16]}"
        checks.append(Check(part, state, f"{seen}{f' ({found.note})' if found.note else ''}"))
    checks += [Check("note", NOTED, line) for line in report.notes]


def _show(checks: Sequence[Check]) -> None:
    table = Table(box=None, pad_edge=False)
    for column in ("check", "result", "detail"):
        table.add_column(column, overflow="fold")
    for check in checks:
        table.add_row(check.name, Text(check.state, style=_COLOURS[check.state]), Text(check.detail))
    show = console.results()
    show.print(table)
    show.print(_verdict(checks))


def _verdict(checks: Sequence[Check]) -> Text:
    failed, left = (
        ", ".join(dict.fromkeys(check.name for check in checks if check.state == state))
        for state in (BAD, OPEN)
    )
    if failed:
        return Text(f"not verified: {failed}", style="bold red")
    return Text("all that was checked agrees" + (f"; not checked: {left}" if left else ""), style="green")
