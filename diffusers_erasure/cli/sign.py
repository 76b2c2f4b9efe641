"""Sign an artifact with a key of your own, or make the pair of keys.

    diffusers-erasure sign --new_key signer.pem
    diffusers-erasure sign outputs/church-uce --key signer.pem --version 1.2
    diffusers-erasure verify outputs/church-uce --key signer.pub.pem --concept church --min_version 1.2

The signature (erasure.sig) covers the manifest, and so every file, the concepts, method, base, versions and
documents. It says who vouches for the artifact, nothing of how good it is. The passphrase of a key comes from
the environment variable DIFFUSERS_ERASURE_PASSPHRASE or is asked for; it is never on the command line.
Attach documents before you sign: attaching removes the signature.
"""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from diffusers_erasure.errors import ConfigError

from . import console
from .flags import read_flags

PASSPHRASE = "DIFFUSERS_ERASURE_PASSPHRASE"


@dataclass(frozen=True)
class SignArguments:
    """Sign an artifact, or make keys."""

    artifact: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="[ARTIFACT]")] = None
    """folder of the artifact"""
    key: Path | None = None
    """private key to sign with, a PEM file"""
    version: str | None = None
    """number of this release, such as 2 or 1.4; the time of signing unless given"""
    new_key: Path | None = None
    """make a pair of keys: the private one in this file, the public one beside it"""
    no_passphrase: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """with --new_key: leave the private key unencrypted"""


def main(argv: Sequence[str]) -> int:
    """Run `diffusers-erasure sign`."""
    arguments = read_flags(SignArguments, argv, "diffusers-erasure sign", __doc__)
    if arguments.new_key is not None:
        if arguments.artifact is not None or arguments.key is not None:
            raise ConfigError(
                "--new_key was given together with an artifact or --key; expected it alone; make the keys "
                "first"
            )
        return _make_key(arguments.new_key, encrypt=not arguments.no_passphrase)
    if arguments.artifact is None or arguments.key is None:
        raise ConfigError(
            "nothing to sign, or nothing to sign with; expected an artifact's folder and --key FILE; give "
            "both, or make a pair of keys with --new_key FILE"
        )
    return _sign(arguments.artifact, arguments.key, arguments.version)


def _make_key(path: Path, *, encrypt: bool) -> int:
    from diffusers_erasure.artifacts.keys import key_fingerprint, new_key, read_public_key

    private, public = new_key(path, passphrase=_passphrase(path, twice=True) if encrypt else None)
    console.show_facts(
        {
            "private key": f"{private} (keep it to yourself)",
            "public key": f"{public} (give it to those who verify)",
            "fingerprint": key_fingerprint(read_public_key(public)),
        }
    )
    return 0


def _sign(artifact: Path, key: Path, version: str | None) -> int:
    from diffusers_erasure.artifacts.keys import is_encrypted, read_private_key
    from diffusers_erasure.artifacts.signing import sign_artifact

    passphrase = _passphrase(key) if is_encrypted(key) else None
    signed = sign_artifact(artifact, read_private_key(key, passphrase=passphrase), version=version)
    console.show_facts(
        {
            "signed": str(signed.path),
            "key": signed.signature.key,
            "version": signed.signature.version,
            "manifest": signed.signature.digest,
        }
    )
    return 0


def _passphrase(key: Path, *, twice: bool = False) -> str:
    """The passphrase from the environment, or asked for where a person sits."""
    found = os.environ.get(PASSPHRASE)
    if found:
        return found
    if not sys.stdin.isatty():
        raise ConfigError(
            f"the key {key} needs a passphrase and nobody can be asked; expected it in the environment "
            f"variable {PASSPHRASE}; set it, or make a key with --no_passphrase"
        )
    typed = getpass.getpass(f"passphrase of {key}: ")
    if not typed or (twice and getpass.getpass("once more: ") != typed):
        raise ConfigError(
            "the passphrase is empty or was typed differently; expected the same twice; try again"
        )
    return typed
