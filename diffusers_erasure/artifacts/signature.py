"""The detached signature of an artifact, `erasure.sig`: who vouches for exactly this manifest.

The manifest holds the sha256 of every file, the concepts, method, base and versions, the documents beside it
and the summary of what was measured; a signature over its bytes covers all of that. What is signed is

    DOMAIN, the fields of `erasure.sig` in canonical JSON, a zero byte, the bytes of `erasure_config.json`

so that a signature of another program, format or field is never taken for one of these. There is one spelling
of the file: any other byte is refused. A signature says who published the artifact, and nothing of its
quality.

A valid signature is not enough: another artifact of the same signer, or an older one, carries one as well.
`Trust` says besides the key which concepts, method, base and lowest version are expected, and what differs is
refused. Reading and checking need no torch and no network.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from diffusers_erasure.errors import ArtifactFormatError, ConfigError, OtherArtifactError, SignatureError

from .jsontext import parse_json
from .keys import key_fingerprint, read_public_key
from .manifest import Manifest, Sha256, Word, canonical_json

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SIGNATURE_NAME = "erasure.sig"
MAX_SIGNATURE_BYTES = 8 * 1024
DOMAIN = b"diffusers-erasure: signature of an erasure manifest, format 1\n"
_VERSION = re.compile(r"\d{1,9}(\.\d{1,9}){0,5}")


class Signature(BaseModel):
    """What `erasure.sig` says.

    Attributes:
        format_version: Of this file.
        algorithm: Always Ed25519 (RFC 8032).
        key: Fingerprint of the signer's public key, see `keys`.
        digest: sha256 of the manifest's bytes.
        version: The signer's number of this release; higher is newer. The time of signing unless given.
        created: When it was signed, UTC.
        signature: 64 bytes, base64.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = 1
    algorithm: Literal["ed25519"] = "ed25519"
    key: Sha256
    digest: Sha256
    version: Annotated[str, StringConstraints(pattern=r"^\d{1,9}(\.\d{1,9}){0,5}$")]
    created: Word
    signature: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9+/]{86}==$")]

    def message(self, manifest: bytes) -> bytes:
        """The bytes that are signed, for a manifest's bytes."""
        fields = canonical_json(self.model_dump(mode="json", exclude={"signature"}))
        return DOMAIN + fields + b"\0" + manifest


@dataclass(frozen=True)
class Trust:
    """Whom to believe, and what is expected of what they signed; None and empty expect nothing.

    Attributes:
        key: Public key: path of a PEM file, or PEM text.
        concepts: The concepts that the artifact must erase, no fewer and no others.
        method: Its method.
        base: Id of its base model, with `@revision` if that matters too.
        min_version: Lowest version of the signature; an older one is a rollback.
    """

    key: str | Path
    concepts: tuple[str, ...] = ()
    method: str | None = None
    base: str | None = None
    min_version: str | None = None


TrustedKey = str | Path | Trust
"""A public key, or a public key with what is expected."""


def as_trust(trusted_key: TrustedKey) -> Trust:
    """A bare key as a `Trust` that expects nothing more."""
    return trusted_key if isinstance(trusted_key, Trust) else Trust(trusted_key)


def sign_manifest(manifest: bytes, key: Ed25519PrivateKey, *, version: str | None = None) -> bytes:
    """The content of `erasure.sig` for a manifest's bytes.

    Args:
        manifest: Bytes of `erasure_config.json`.
        key: The signer's private key.
        version: Number of this release (`2`, `1.4`); the time in the form `2026.11.23.14.5.9` by default.
    """
    now = datetime.now(UTC)
    number = f"{now.year}.{now.month}.{now.day}.{now.hour}.{now.minute}.{now.second}"
    unsigned = Signature(
        key=key_fingerprint(key.public_key()),
        digest=sha256(manifest).hexdigest(),
        version=_checked_version(version) if version is not None else number,
        created=now.isoformat(timespec="seconds"),
        signature="A" * 86 + "==",
    )
    made = base64.b64encode(key.sign(unsigned.message(manifest))).decode()
    return render_signature(unsigned.model_copy(update={"signature": made}))


def render_signature(signature: Signature) -> bytes:
    """The one spelling of a signature's file."""
    return (json.dumps(signature.model_dump(mode="json"), indent=2) + "\n").encode()


def parse_signature(data: bytes, *, origin: str) -> Signature:
    """Read a signature's file without checking what it signs.

    Args:
        data: Its bytes.
        origin: The file in words.

    Raises:
        SignatureError: It is not, byte for byte, a file that signing writes.
    """
    try:
        content = parse_json(bytes(data), origin=origin, max_bytes=MAX_SIGNATURE_BYTES, max_depth=2)
        found = Signature.model_validate(content, strict=True)
    except (ArtifactFormatError, ValidationError) as error:
        why = f"{error.errors()[0]['msg']}" if isinstance(error, ValidationError) else str(error)
        raise _unreadable(origin, why) from error
    if render_signature(found) != bytes(data):
        raise _unreadable(origin, "it is spelt differently")
    return found


def check_signature(
    manifest: bytes, data: bytes, key: Ed25519PublicKey | str | Path, *, origin: str
) -> Signature:
    """Whether a key signed these bytes of a manifest; returns what the signature says.

    Args:
        manifest: Bytes of `erasure_config.json`.
        data: Bytes of `erasure.sig`.
        key: The public key that is trusted.
        origin: The signature's file in words.

    Raises:
        SignatureError: It did not, or not these.
    """
    from cryptography.exceptions import InvalidSignature

    trusted = read_public_key(key) if isinstance(key, str | Path) else key
    found = parse_signature(data, origin=origin)
    wanted = key_fingerprint(trusted)
    if found.key != wanted:
        _refuse(
            f"{origin} was made with the key {found.key[:16]}, which is not trusted",
            f"the key {wanted[:16]}",
            "get the artifact from its signer, or check which public key is theirs",
        )
    digest = sha256(manifest).hexdigest()
    if found.digest != digest:
        _refuse(
            f"{origin} signs a manifest with the sha256 {found.digest}, found {digest}",
            "the manifest that was signed",
            "download the artifact again; after a change of your own, sign it again",
        )
    try:
        raw = base64.b64decode(found.signature, validate=True)
        if base64.b64encode(raw).decode() != found.signature:
            raise binascii.Error("spelt differently")
        trusted.verify(raw, found.message(manifest))
    except (InvalidSignature, binascii.Error) as error:
        raise SignatureError(
            f"{origin} is forged or was changed: it is no signature of this manifest by the key "
            f"{wanted[:16]}; expected a valid one; download the artifact again from a source that you trust"
        ) from error
    return found


def check_expected(manifest: Manifest, trust: Trust, *, signature: Signature | None, origin: str) -> None:
    """Refuse an artifact that is not the one that was asked for, however well signed.

    Args:
        manifest: Its manifest.
        trust: What is expected.
        signature: Its signature, which carries the version.
        origin: The artifact in words.

    Raises:
        OtherArtifactError: Concepts, method, base or version differ.
    """
    names = set(manifest.concept_names)
    if trust.concepts and names != set(trust.concepts):
        _other(origin, "erases", ", ".join(sorted(names)), ", ".join(sorted(set(trust.concepts))))
    if trust.method is not None and manifest.method != trust.method:
        _other(origin, "was made by the method", manifest.method, trust.method)
    found = manifest.base.id
    if trust.base is not None and trust.base != found:
        found = f"{found}@{manifest.base.revision or ''}"
        if trust.base != found:
            _other(origin, "was made for the base", found.rstrip("@"), trust.base)
    if trust.min_version is None:
        return
    lowest = _checked_version(trust.min_version)
    if signature is None:
        _refuse(
            f"{origin} has no signature and so no version", f"{lowest} or later", "check it with its key too"
        )
    if _numbers(signature.version) < _numbers(lowest):
        _other(origin, "has the version", signature.version, f"{lowest} or later")


def _checked_version(version: str) -> str:
    if not _VERSION.fullmatch(version):
        raise ConfigError(
            f"the version {version!r} is none; expected numbers with dots between them, such as 2 or 1.4; "
            "give one"
        )
    return version


def _numbers(version: str) -> tuple[int, ...]:
    """`1.4` as numbers, without zeros at the end: 1 and 1.0 are the same."""
    numbers = [int(part) for part in version.split(".")]
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


def _other(origin: str, what: str, found: str, expected: str) -> NoReturn:
    _refuse(
        f"{origin} is another artifact: it {what} {found}",
        expected,
        "get the one that you asked for, or correct what you expect",
    )


def _refuse(wrong: str, expected: str, repair: str) -> NoReturn:
    raise OtherArtifactError(f"{wrong}; expected {expected}; {repair}")


def _unreadable(origin: str, why: str) -> SignatureError:
    return SignatureError(
        f"{origin} is no signature of this package: {why[:300]}; expected the file that `diffusers-erasure "
        "sign` writes, byte for byte; download the artifact again or sign it again"
    )
