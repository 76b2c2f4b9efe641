"""Signing a saved artifact, and checking the signature where an artifact is read.

Signing reads the artifact through the door first, with every document that its manifest names: nobody puts
their name under something that is broken.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from diffusers_erasure.errors import ArtifactIntegrityError, SignatureError

from .files import FileState, document_records
from .hub import FolderSource, Source
from .manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, Manifest
from .safebytes import read_bytes
from .signature import (
    MAX_SIGNATURE_BYTES,
    SIGNATURE_NAME,
    Signature,
    TrustedKey,
    as_trust,
    check_expected,
    check_signature,
    parse_signature,
    sign_manifest,
)

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


@dataclass(frozen=True)
class Signed:
    """A signature that was written."""

    path: Path
    signature: Signature


def sign_artifact(folder: str | Path, key: Ed25519PrivateKey, *, version: str | None = None) -> Signed:
    """Sign a saved artifact: write `erasure.sig`, in place of one that is there.

    Args:
        folder: A saved artifact.
        key: The signer's private key, see `keys.read_private_key`.
        version: Number of this release; the time of signing by default. Checking can ask for a lowest one.

    Raises:
        ArtifactError: The artifact is broken, or a document is missing or was changed.
    """
    from .door import load_artifact
    from .store import replace_file

    root = Path(folder).expanduser().absolute()
    artifact = load_artifact(root)
    place = FolderSource(root)
    for record in document_records(place, artifact.manifest):
        if record.state is not FileState.AGREES:
            raise ArtifactIntegrityError(
                f"{place.describe(record.name)}, which the manifest names, is {record.state.value}; expected "
                f"the document with the sha256 {record.sha256}; attach it again before you sign"
            )
    path = place.path(MANIFEST_NAME)
    manifest = bytes(read_bytes(path, origin=str(path), max_bytes=MAX_MANIFEST_BYTES))
    content = sign_manifest(manifest, key, version=version)
    replace_file(root / SIGNATURE_NAME, content)
    load_artifact(root, trusted_key=_public_text(key))
    return Signed(root / SIGNATURE_NAME, parse_signature(content, origin=str(root / SIGNATURE_NAME)))


def read_signature(place: Source, *, surely: bool = False) -> bytes | None:
    """The bytes of an artifact's signature; None if it has none (if `surely`, only where the Hub says so)."""
    path = place.optional(SIGNATURE_NAME, surely=surely)
    if path is None:
        return None
    if place.altered_in_transit(path):
        path = place.fetch_again(SIGNATURE_NAME) or path
    return bytes(read_bytes(path, origin=place.describe(SIGNATURE_NAME), max_bytes=MAX_SIGNATURE_BYTES))


def check_signed(place: Source, data: bytes, manifest: Manifest, trusted_key: TrustedKey) -> Signature:
    """Whether an artifact was signed by a trusted key, and is the one that is expected.

    Args:
        place: Where it lies.
        data: The bytes that its manifest was parsed from.
        manifest: The manifest.
        trusted_key: The key, or a `Trust`.

    Raises:
        SignatureError: It has no signature, a wrong one, or is another artifact.
    """
    trust = as_trust(trusted_key)
    found = read_signature(place, surely=True)
    if found is None:
        raise SignatureError(
            f"{place.label} is not signed: it has no {SIGNATURE_NAME}; expected a signature by the trusted "
            "key; get the artifact from its signer, or load it without trusted_key"
        )
    signature = check_signature(data, found, trust.key, origin=place.describe(SIGNATURE_NAME))
    check_expected(manifest, trust, signature=signature, origin=place.label)
    return signature


def _public_text(key: Ed25519PrivateKey) -> str:
    from cryptography.hazmat.primitives import serialization as formats

    pem = key.public_key().public_bytes(formats.Encoding.PEM, formats.PublicFormat.SubjectPublicKeyInfo)
    return pem.decode()
