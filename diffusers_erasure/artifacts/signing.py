"""Signing a saved artifact.

Signing reads the artifact through the door first, with every document that its manifest names: nobody puts
their name under something that is broken.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from diffusers_erasure.durable import write_whole
from diffusers_erasure.errors import ArtifactIntegrityError

from .door import load_artifact
from .files import FileState, document_records
from .hub import FolderSource
from .manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES
from .safebytes import read_bytes
from .signature import SIGNATURE_NAME, Signature, parse_signature, sign_manifest

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
    write_whole(root / SIGNATURE_NAME, content)
    load_artifact(root, trusted_key=_public_text(key))
    return Signed(root / SIGNATURE_NAME, parse_signature(content, origin=str(root / SIGNATURE_NAME)))


def _public_text(key: Ed25519PrivateKey) -> str:
    from cryptography.hazmat.primitives import serialization as formats

    pem = key.public_key().public_bytes(formats.Encoding.PEM, formats.PublicFormat.SubjectPublicKeyInfo)
    return pem.decode()
