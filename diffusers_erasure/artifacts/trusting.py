"""Checking who signed an artifact where it is read: its signature's file against the key that is trusted."""

from __future__ import annotations

from diffusers_erasure.errors import SignatureError

from .hub import Source
from .manifest import Manifest
from .safebytes import read_bytes
from .signature import (
    MAX_SIGNATURE_BYTES,
    SIGNATURE_NAME,
    Signature,
    TrustedKey,
    as_trust,
    check_expected,
    check_signature,
)


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
