"""Ed25519 keys for signing manifests: made, read and named by their fingerprint.

Private keys are PKCS8 PEM files that only their owner can read, encrypted if a passphrase is given; public
keys are PEM files for everybody. A fingerprint is the sha256 of the public key in DER, which `openssl pkey
-pubin -in key.pub.pem -outform DER | sha256sum` computes as well.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from diffusers_erasure.errors import ConfigError, MissingDependencyError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

MAX_KEY_BYTES = 64 * 1024
_PEM = "-----BEGIN"


def public_path(private: Path) -> Path:
    """Where the public key of a new pair lies: `signer.pem` has `signer.pub.pem` beside it."""
    return private.with_name(f"{private.stem}.pub{private.suffix or '.pem'}")


def new_key(path: str | Path, *, passphrase: str | None = None) -> tuple[Path, Path]:
    """Make a pair of keys; the private file can be read by its owner only.

    Args:
        path: Where the private key goes; the public one goes beside it, see `public_path`.
        passphrase: Encrypts the private key; None leaves it readable for whoever has the file.

    Returns:
        Paths of the private and the public key.

    Raises:
        ConfigError: One of the files exists already.
    """
    require_cryptography()
    from cryptography.hazmat.primitives import serialization as formats
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Path(path).expanduser()
    public = public_path(private)
    for file in (private, public):
        if file.exists():
            raise ConfigError(
                f"{file} exists already; a new key never replaces another, which could then sign nothing "
                "more; give another name"
            )
    key = Ed25519PrivateKey.generate()
    secret: formats.KeySerializationEncryption = formats.NoEncryption()
    if passphrase:
        secret = formats.BestAvailableEncryption(passphrase.encode())
    content = key.private_bytes(formats.Encoding.PEM, formats.PrivateFormat.PKCS8, secret)
    private.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as stream:
        stream.write(content)
    public.write_bytes(
        key.public_key().public_bytes(formats.Encoding.PEM, formats.PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public


def read_private_key(path: str | Path, *, passphrase: str | None = None) -> Ed25519PrivateKey:
    """The private key of a PEM file.

    Raises:
        ConfigError: There is none, it is of another kind, others can read it, or the passphrase is wrong.
    """
    require_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    place = Path(path).expanduser()
    data = _read(place)
    _check_private(place)
    try:
        key = load_pem_private_key(data, passphrase.encode() if passphrase else None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(
            f"the private key {place} cannot be read ({str(error)[:120]}); expected an Ed25519 key in PEM "
            "and the passphrase that it was made with; make one with `diffusers-erasure sign --new_key FILE`"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise _other_kind(str(place), key)
    return key


def is_encrypted(path: str | Path) -> bool:
    """Whether a private key needs a passphrase."""
    return b"ENCRYPTED" in _read(Path(path).expanduser())


def read_public_key(key: str | Path) -> Ed25519PublicKey:
    """The public key of a PEM file, or of PEM text.

    Raises:
        ConfigError: There is none, or it is of another kind.
    """
    require_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    inline = isinstance(key, str) and key.lstrip().startswith(_PEM)
    name = "the given key" if inline else str(key)
    data = str(key).encode() if inline else _read(Path(key).expanduser())
    if b"PRIVATE KEY" in data:
        raise ConfigError(
            f"{name} is a private key; expected the public one, which is all that checking needs; give the "
            f"file that was made beside it ({public_path(Path(name)).name if not inline else 'its .pub.pem'})"
        )
    try:
        found = load_pem_public_key(data)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(
            f"the public key {name} cannot be read ({str(error)[:120]}); expected an Ed25519 key in PEM; ask "
            "the signer for the file that `diffusers-erasure sign --new_key` made"
        ) from error
    if not isinstance(found, Ed25519PublicKey):
        raise _other_kind(name, found)
    return found


def key_fingerprint(key: Ed25519PublicKey) -> str:
    """sha256 of a public key in DER, in hexadecimal."""
    from cryptography.hazmat.primitives import serialization as formats

    der = key.public_bytes(formats.Encoding.DER, formats.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def require_cryptography() -> None:
    """Refuse, with the command that installs it, where the package cryptography is missing."""
    try:
        import cryptography  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            "signatures need the package cryptography, which is not installed; expected it; run pip install "
            "'diffusers-erasure[sign]'"
        ) from error


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_KEY_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"the key {path} cannot be read ({error.strerror}); expected a PEM file; check the path, or make "
            "a pair of keys with `diffusers-erasure sign --new_key FILE`"
        ) from error
    if len(data) > MAX_KEY_BYTES:
        raise ConfigError(f"{path} is larger than {MAX_KEY_BYTES} bytes; expected a key in PEM; give one")
    return data


def _check_private(path: Path) -> None:
    if os.name == "nt":
        return
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise ConfigError(
            f"the private key {path} has mode {mode:04o}, so that others on this machine can use it; "
            f"expected 0600; run chmod 600 {path}"
        )


def _other_kind(name: str, key: object) -> ConfigError:
    return ConfigError(
        f"{name} is a key of the kind {type(key).__name__}; expected Ed25519; make one with "
        "`diffusers-erasure sign --new_key FILE`"
    )
