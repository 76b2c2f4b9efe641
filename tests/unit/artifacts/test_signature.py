"""A signature binds one manifest and all that it names: every change and every exchange is refused."""

from __future__ import annotations

import base64
import json
import random
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from diffusers_erasure.artifacts import keys
from diffusers_erasure.artifacts.apply import load_erasure
from diffusers_erasure.artifacts.artifact import Artifact
from diffusers_erasure.artifacts.door import load_artifact
from diffusers_erasure.artifacts.manifest import MANIFEST_NAME
from diffusers_erasure.artifacts.signature import (
    DOMAIN,
    SIGNATURE_NAME,
    Signature,
    Trust,
    check_expected,
    check_signature,
    parse_signature,
    render_signature,
    sign_manifest,
)
from diffusers_erasure.artifacts.signing import sign_artifact
from diffusers_erasure.artifacts.store import attach_file, save_artifact
from diffusers_erasure.errors import (
    ArtifactError,
    ArtifactIntegrityError,
    ConfigError,
    MissingDependencyError,
    SignatureError,
)
from tests.unit.artifacts.conftest import make_artifact, text_edit
from tests.unit.artifacts.tampering import change_bytes, change_manifest, forge_hashes

pytest.importorskip("cryptography")
MUTATIONS = 2000


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return keys.new_key(tmp_path_factory.mktemp("keys") / "signer.pem")


@pytest.fixture(scope="session")
def other_pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return keys.new_key(tmp_path_factory.mktemp("keys") / "other.pem", passphrase="word")


@pytest.fixture
def signed(folder: Path, pair: tuple[Path, Path]) -> Path:
    sign_artifact(folder, keys.read_private_key(pair[0]), version="1.2")
    return folder


def test_a_signed_artifact_loads_with_its_key(signed: Path, pair: tuple[Path, Path], tiny_pipe: Any) -> None:
    digest = load_artifact(signed).digest
    for key in (
        pair[1],
        str(pair[1]),
        pair[1].read_text(),
        Trust(pair[1], ("church",), "test", "tiny", "1.2"),
    ):
        assert load_artifact(signed, trusted_key=key).digest == digest
    assert load_erasure(tiny_pipe, signed, trusted_key=pair[1]) == "church"


def test_the_file_says_who_signed_what(signed: Path, pair: tuple[Path, Path]) -> None:
    from hashlib import sha256

    from cryptography.hazmat.primitives import serialization

    said = json.loads((signed / SIGNATURE_NAME).read_text())
    der = keys.read_public_key(pair[1]).public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert said["key"] == sha256(der).hexdigest()
    assert said["digest"] == sha256((signed / MANIFEST_NAME).read_bytes()).hexdigest()
    assert (said["algorithm"], said["version"], said["format_version"]) == ("ed25519", "1.2", 1)
    fields = {name: value for name, value in said.items() if name != "signature"}
    text = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
    message = DOMAIN + text + b"\0" + (signed / MANIFEST_NAME).read_bytes()
    keys.read_public_key(pair[1]).verify(base64.b64decode(said["signature"]), message)


def test_unsigned_and_otherwise_signed_artifacts_are_refused(
    folder: Path, pair: tuple[Path, Path], other_pair: tuple[Path, Path], tiny_pipe: Any, artifact: Artifact
) -> None:
    with pytest.raises(SignatureError, match="is not signed"):
        load_artifact(folder, trusted_key=pair[1])
    with pytest.raises(SignatureError, match="is not signed"):
        load_erasure(tiny_pipe, folder, trusted_key=pair[1])
    assert not hasattr(tiny_pipe.text_encoder, "erasure_record")
    sign_artifact(folder, keys.read_private_key(other_pair[0], passphrase="word"))
    with pytest.raises(SignatureError, match="is not trusted"):
        load_artifact(folder, trusted_key=pair[1])
    change_signature(folder, key=keys.key_fingerprint(keys.read_public_key(pair[1])))
    with pytest.raises(SignatureError, match="forged or was changed"):
        load_artifact(folder, trusted_key=pair[1])
    with pytest.raises(ConfigError, match="in memory already"):
        load_erasure(tiny_pipe, artifact, trusted_key=pair[1])


def change_signature(folder: Path, **changes: Any) -> None:
    path = folder / SIGNATURE_NAME
    path.write_bytes(
        render_signature(parse_signature(path.read_bytes(), origin="test").model_copy(update=changes))
    )


@pytest.mark.parametrize("name", [SIGNATURE_NAME, MANIFEST_NAME])
def test_every_mutation_of_manifest_or_signature_is_refused(
    signed: Path, pair: tuple[Path, Path], name: str
) -> None:
    key = keys.read_public_key(pair[1])
    files = {file: (signed / file).read_bytes() for file in (SIGNATURE_NAME, MANIFEST_NAME)}
    check_signature(files[MANIFEST_NAME], files[SIGNATURE_NAME], key, origin="test")
    chance, refused = random.Random(7), 0
    for _ in range(MUTATIONS):
        changed = {**files, name: mutated(files[name], chance)}
        assert changed[name] != files[name]
        with pytest.raises(SignatureError):
            check_signature(changed[MANIFEST_NAME], changed[SIGNATURE_NAME], key, origin="test")
        refused += 1
    assert refused == MUTATIONS


def test_every_mutation_of_the_weights_is_refused(signed: Path, pair: tuple[Path, Path]) -> None:
    """Through the whole door, with a forger who corrects the manifest's hash in every other case."""
    names = ["text_encoder.safetensors", "unet.safetensors", "canary.safetensors"]
    before = {path.name: path.read_bytes() for path in signed.iterdir()}
    chance = random.Random(11)
    for number in range(MUTATIONS):
        name = chance.choice(names)
        (signed / name).write_bytes(mutated(before[name], chance))
        if number % 10 == 0:
            forge_hashes(signed)
        with pytest.raises(ArtifactError):
            load_artifact(signed, trusted_key=pair[1])
        for file in (name, MANIFEST_NAME):
            (signed / file).write_bytes(before[file])
    assert load_artifact(signed, trusted_key=pair[1]).manifest.method == "test"


def mutated(data: bytes, chance: random.Random) -> bytes:
    """One bit flipped, one byte put in, or one taken out."""
    place = chance.randrange(len(data))
    kind = chance.randrange(3)
    if kind == 0:
        return data[:place] + bytes([data[place] ^ (1 << chance.randrange(8))]) + data[place + 1 :]
    if kind == 1:
        return data[:place] + bytes([chance.randrange(256)]) + data[place:]
    return data[:place] + data[place + 1 :]


def test_signatures_spelt_otherwise_are_refused(signed: Path, pair: tuple[Path, Path]) -> None:
    """Same meaning, other bytes: spaces, order of fields, the idle bits of base64."""
    data = (signed / SIGNATURE_NAME).read_bytes()
    content = json.loads(data)
    manifest = (signed / MANIFEST_NAME).read_bytes()
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    last = content["signature"][85]
    idle = content["signature"][:85] + letters[letters.index(last) ^ 1] + "=="
    assert base64.b64decode(idle) == base64.b64decode(content["signature"])
    spellings = [
        json.dumps(content).encode(),
        data + b"\n",
        b"\n" + data,
        (json.dumps(dict(reversed(content.items())), indent=2) + "\n").encode(),
        (json.dumps({**content, "signature": idle}, indent=2) + "\n").encode(),
        (json.dumps({**content, "more": 1}, indent=2) + "\n").encode(),
        b"",
        b"[]",
        b"x" * 10_000,
    ]
    for spelling in spellings:
        with pytest.raises(SignatureError):
            check_signature(manifest, spelling, pair[1], origin="test")


def test_a_signature_of_something_else_is_none_of_a_manifest(signed: Path, pair: tuple[Path, Path]) -> None:
    """The key signed the bare manifest elsewhere: without our domain and fields that proves nothing."""
    manifest = (signed / MANIFEST_NAME).read_bytes()
    bare = keys.read_private_key(pair[0]).sign(manifest)
    change_signature(signed, signature=base64.b64encode(bare).decode())
    with pytest.raises(SignatureError, match="forged"):
        load_artifact(signed, trusted_key=pair[1])


def resealed(folder: Path, change: Callable[[dict[str, Any]], Any], pair: tuple[Path, Path]) -> Path:
    """Another artifact, validly signed by the same person."""
    change_manifest(folder, change)
    sign_artifact(folder, keys.read_private_key(pair[0]), version="1.2")
    return folder


@pytest.mark.parametrize(
    ("expected", "words"),
    [
        ({"concepts": ("dog",)}, "erases church; expected dog"),
        ({"concepts": ("church", "dog")}, "erases church; expected church, dog"),
        ({"method": "uce"}, "made by the method test; expected uce"),
        ({"base": "CompVis/stable-diffusion-v1-4"}, "made for the base tiny; expected CompVis"),
        ({"base": "tiny@" + "a" * 40}, "made for the base tiny; expected tiny@aaaa"),
        ({"min_version": "1.3"}, "has the version 1.2; expected 1.3 or later"),
        ({"min_version": "1.2.0.1"}, "has the version 1.2; expected 1.2.0.1"),
        ({"min_version": "10"}, "has the version 1.2; expected 10"),
    ],
)
def test_a_valid_signature_on_another_artifact_is_refused(
    signed: Path, pair: tuple[Path, Path], expected: dict[str, Any], words: str
) -> None:
    assert load_artifact(signed, trusted_key=pair[1])
    with pytest.raises(SignatureError, match="is another artifact") as caught:
        load_artifact(signed, trusted_key=Trust(pair[1], **expected))
    assert words in str(caught.value)


@pytest.mark.parametrize("lowest", ["1.2", "1.2.0", "1.2.0.0", "1", "0.9"])
def test_zeros_at_the_end_of_a_version_are_not_there(
    signed: Path, pair: tuple[Path, Path], lowest: str
) -> None:
    assert load_artifact(signed, trusted_key=Trust(pair[1], min_version=lowest))


def test_a_base_may_be_expected_with_its_revision(folder: Path, pair: tuple[Path, Path]) -> None:
    revision = "a" * 40
    resealed(folder, lambda manifest: manifest["base"].update(revision=revision), pair)
    for base in ("tiny", f"tiny@{revision}"):
        assert load_artifact(folder, trusted_key=Trust(pair[1], base=base))
    with pytest.raises(SignatureError, match="made for the base tiny@aaaa"):
        load_artifact(folder, trusted_key=Trust(pair[1], base="tiny@" + "b" * 40))


def test_what_is_not_signed_has_no_version(signed: Path, pair: tuple[Path, Path]) -> None:
    manifest = load_artifact(signed).manifest
    with pytest.raises(SignatureError, match="has no signature and so no version"):
        check_expected(manifest, Trust(pair[1], min_version="1"), signature=None, origin="it")
    check_expected(manifest, Trust(pair[1], method="test"), signature=None, origin="it")


def test_another_artifact_of_the_signer_in_its_place(
    signed: Path, pair: tuple[Path, Path], tiny_pipe: Any, tmp_path: Path
) -> None:
    trust = Trust(pair[1], concepts=("church",), min_version="1.2")
    other = make_artifact(tiny_pipe, {"text_encoder": text_edit(tiny_pipe, 50)}, concept="dog")
    place = save_artifact(other, tmp_path / "dog")
    sign_artifact(place, keys.read_private_key(pair[0]), version="2")
    shutil.rmtree(signed)
    place.rename(signed)
    with pytest.raises(SignatureError, match="erases dog"):
        load_artifact(signed, trusted_key=trust)


def test_an_older_release_and_a_foreign_signature(
    folder: Path, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    private = keys.read_private_key(pair[0])
    sign_artifact(folder, private, version="1.9")
    old = Path(shutil.copytree(folder, tmp_path / "old"))
    attach_file(folder, "evaluation.json", b"{}", evaluation={"own name": "0/50"})
    sign_artifact(folder, private, version="1.10")
    trust = Trust(pair[1], min_version="1.10")
    assert load_artifact(folder, trusted_key=trust).manifest.evaluation == {"own name": "0/50"}
    with pytest.raises(SignatureError, match=r"version 1\.9; expected 1\.10"):
        load_artifact(old, trusted_key=trust)
    shutil.copy(old / SIGNATURE_NAME, folder / SIGNATURE_NAME)
    with pytest.raises(SignatureError, match="signs a manifest with the sha256"):
        load_artifact(folder, trusted_key=pair[1])


def test_the_version_is_the_time_unless_given(folder: Path, pair: tuple[Path, Path]) -> None:
    private = keys.read_private_key(pair[0])
    first = sign_artifact(folder, private).signature
    year = time.gmtime().tm_year
    assert first.version.startswith(f"{year}.")
    assert load_artifact(folder, trusted_key=Trust(pair[1], min_version=str(year)))
    with pytest.raises(SignatureError, match="another artifact"):
        load_artifact(folder, trusted_key=Trust(pair[1], min_version=str(year + 1)))
    for wrong in ("v1", "1.2-beta", "", "1..2", "²"):
        with pytest.raises(ConfigError, match="numbers with dots"):
            sign_artifact(folder, private, version=wrong)


def test_what_the_manifest_says_cannot_be_exchanged(signed: Path, pair: tuple[Path, Path]) -> None:
    """Concept, method, base, versions, documents and figures, each with a checksum that agrees again."""
    before = (signed / MANIFEST_NAME).read_bytes()
    changes: list[Callable[[dict[str, Any]], Any]] = [
        lambda m: m["concepts"][0].update(name="dog"),
        lambda m: m.update(method="other"),
        lambda m: m["base"].update(id="org/other"),
        lambda m: m["versions"].update(torch="9.9"),
        lambda m: m["attachments"].update({"README.md": "0" * 64}),
        lambda m: m.update(evaluation={"own name": "0/50"}),
        lambda m: m.update(created="2001-01-01"),
    ]
    for change in changes:
        change_manifest(signed, change)
        assert load_artifact(signed)
        with pytest.raises(SignatureError, match="signs a manifest"):
            load_artifact(signed, trusted_key=pair[1])
        (signed / MANIFEST_NAME).write_bytes(before)


def test_attaching_removes_the_signature(
    signed: Path, pair: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    attach_file(signed, "README.md", b"# card")
    assert not (signed / SIGNATURE_NAME).exists()
    assert "signature was removed" in caplog.text
    with pytest.raises(SignatureError, match="not signed"):
        load_artifact(signed, trusted_key=pair[1])
    sign_artifact(signed, keys.read_private_key(pair[0]))
    attach_file(signed, "README.md", b"# card")
    assert load_artifact(signed, trusted_key=pair[1])
    with pytest.raises(ConfigError, match="cannot be attached"):
        attach_file(signed, SIGNATURE_NAME, b"{}")


def test_what_is_broken_is_not_signed(folder: Path, pair: tuple[Path, Path]) -> None:
    private = keys.read_private_key(pair[0])
    attach_file(folder, "README.md", b"# card")
    (folder / "README.md").write_text("changed")
    with pytest.raises(ArtifactIntegrityError, match=r"README\.md.* is changed"):
        sign_artifact(folder, private)
    (folder / "README.md").unlink()
    with pytest.raises(ArtifactIntegrityError, match=r"README\.md.* is missing"):
        sign_artifact(folder, private)
    (folder / "README.md").write_bytes(b"# card")
    change_bytes(folder, lambda data: data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ArtifactIntegrityError, match="sha256"):
        sign_artifact(folder, private)
    assert not (folder / SIGNATURE_NAME).exists()


def test_checking_is_fast_and_needs_neither_torch_nor_network(signed: Path, pair: tuple[Path, Path]) -> None:
    manifest, data = ((signed / name).read_bytes() for name in (MANIFEST_NAME, SIGNATURE_NAME))
    key, times = keys.read_public_key(pair[1]), []
    for _ in range(20):
        start = time.perf_counter()
        check_signature(manifest, data, key, origin="test")
        times.append(time.perf_counter() - start)
    assert min(times) < 0.02
    program = (
        "import socket, sys\nsocket.socket.connect = lambda *_: sys.exit('the network was asked')\nfrom "
        "pathlib import Path\nfrom diffusers_erasure.artifacts.signature import check_signature\nmanifest, "
        "signature, key = map(Path, sys.argv[1:])\ncheck_signature(manifest.read_bytes(), "
        "signature.read_bytes(), key, origin='test')\nassert 'torch' not in sys.modules\n"
    )
    arguments = [str(signed / MANIFEST_NAME), str(signed / SIGNATURE_NAME), str(pair[1])]
    subprocess.run([sys.executable, "-c", program, *arguments], check=True)


def test_keys_are_private_and_never_replaced(tmp_path: Path) -> None:
    private, public = keys.new_key(tmp_path / "deep" / "signer.pem", passphrase="a word")
    assert (private.name, public.name) == ("signer.pem", "signer.pub.pem")
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert keys.is_encrypted(private)
    assert b"PRIVATE" not in public.read_bytes()
    with pytest.raises(ConfigError, match="exists already"):
        keys.new_key(private)
    for word in (None, "another"):
        with pytest.raises(ConfigError, match="passphrase"):
            keys.read_private_key(private, passphrase=word)
    key = keys.read_private_key(private, passphrase="a word")
    assert keys.key_fingerprint(key.public_key()) == keys.key_fingerprint(keys.read_public_key(public))
    with pytest.raises(ConfigError, match="is a private key"):
        keys.read_public_key(private)
    private.chmod(0o644)
    with pytest.raises(ConfigError, match=r"mode 0644.*chmod 600"):
        keys.read_private_key(private, passphrase="a word")


def test_other_keys_are_refused(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization as formats
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    private, public = tmp_path / "ec.pem", tmp_path / "ec.pub.pem"
    private.write_bytes(
        key.private_bytes(formats.Encoding.PEM, formats.PrivateFormat.PKCS8, formats.NoEncryption())
    )
    private.chmod(0o600)
    public.write_bytes(
        key.public_key().public_bytes(formats.Encoding.PEM, formats.PublicFormat.SubjectPublicKeyInfo)
    )
    with pytest.raises(ConfigError, match="expected Ed25519"):
        keys.read_private_key(private)
    with pytest.raises(ConfigError, match="expected Ed25519"):
        keys.read_public_key(public)
    with pytest.raises(ConfigError, match="cannot be read"):
        keys.read_public_key(tmp_path / "none.pem")
    public.write_text("no key")
    with pytest.raises(ConfigError, match="cannot be read"):
        keys.read_public_key(public)


def test_without_cryptography_the_extra_is_named(
    signed: Path, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(MissingDependencyError, match=r"diffusers-erasure\[sign\]"):
        load_artifact(signed, trusted_key=pair[1])
    assert load_artifact(signed)


def test_a_manifest_signed_by_hand(pair: tuple[Path, Path]) -> None:
    data = sign_manifest(b"{}", keys.read_private_key(pair[0]), version="3")
    found = check_signature(b"{}", data, pair[1], origin="test")
    assert isinstance(found, Signature)
    assert found.version == "3"
