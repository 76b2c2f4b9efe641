"""Every way to spoil an artifact that we know of: refused with the right error, none accepted in silence."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffusers_erasure.artifacts.door import load_artifact
from diffusers_erasure.artifacts.manifest import MANIFEST_NAME
from diffusers_erasure.errors import (
    ArtifactError,
    ArtifactFormatError,
    ArtifactIntegrityError,
    ArtifactMismatchError,
    ArtifactVersionError,
)
from tests.unit.artifacts.tampering import (
    WEIGHTS,
    change_bytes,
    change_header,
    change_manifest,
    forge_hashes,
    join,
    split,
)

Spoil = Callable[[Path], None]


def first(header: dict) -> str:
    return next(name for name in header if name != "__metadata__")


def entry(**fields: object) -> Callable[[dict], None]:
    return lambda header: header[first(header)].update(fields)


def offsets(change: Callable[[list], list]) -> Callable[[dict], None]:
    return lambda header: header[first(header)].update(
        data_offsets=change(header[first(header)]["data_offsets"])
    )


def of_bytes(change: Callable[[bytes], bytes]) -> Spoil:
    return lambda folder: change_bytes(folder, change)


def of_header(change: Callable[[dict], object]) -> Spoil:
    return lambda folder: change_header(folder, change)


def duplicated(header: dict) -> str:
    name = first(header)
    extra = f"{json.dumps(name)}: {json.dumps(header[name])}"
    return "{" + extra + ", " + json.dumps(header)[1:]


def with_values(value: float) -> Spoil:
    def spoil(data: bytes) -> bytes:
        header, body = split(data)
        count = (header[first(header)]["data_offsets"][1] - header[first(header)]["data_offsets"][0]) // 4
        start = header[first(header)]["data_offsets"][0]
        return join(
            header, body[:start] + struct.pack(f"<{count}f", *[value] * count) + body[start + 4 * count :]
        )

    return of_bytes(spoil)


# Faults of the bytes; tried as accidents (hash of the good file) and as forgeries (hash made to fit).
BYTES: dict[str, tuple[Spoil, type[ArtifactError], str]] = {
    "empty file": (of_bytes(lambda _: b""), ArtifactFormatError, "0 bytes"),
    "seven bytes": (of_bytes(lambda data: data[:7]), ArtifactFormatError, "7 bytes"),
    "header cut": (of_bytes(lambda data: data[:40]), ArtifactFormatError, "truncated"),
    "body cut": (of_bytes(lambda data: data[:-5]), ArtifactFormatError, "truncated"),
    "one byte more": (of_bytes(lambda data: data + b"x"), ArtifactFormatError, "longer than its header"),
    "length 2**63": (
        of_bytes(lambda data: struct.pack("<Q", 2**63) + data[8:]),
        ArtifactFormatError,
        "header length",
    ),
    "length 200 MB": (
        of_bytes(lambda data: struct.pack("<Q", 2 * 10**8) + data[8:]),
        ArtifactFormatError,
        "header length",
    ),
    "no JSON": (of_bytes(lambda data: join("{]", split(data)[1])), ArtifactFormatError, "not JSON"),
    "no UTF-8": (of_bytes(lambda data: join(b'{"\xff": 1}', b"")), ArtifactFormatError, "UTF-8"),
    "deep JSON": (
        of_bytes(lambda _: join("[" * 100_000 + "]" * 100_000, b"")),
        ArtifactFormatError,
        "nested",
    ),
    "deep unclosed": (of_bytes(lambda _: join("[" * 100_000, b"")), ArtifactFormatError, "nested"),
    "NaN in JSON": (of_bytes(lambda data: join('{"a": NaN}', b"")), ArtifactFormatError, "NaN"),
    "huge number": (
        of_bytes(lambda data: join('{"a": ' + "9" * 9000 + "}", b"")),
        ArtifactFormatError,
        "JSON",
    ),
    "header a list": (of_bytes(lambda data: join("[]", b"")), ArtifactFormatError, "list"),
    "overlap": (of_header(offsets(lambda o: [o[0] + 4, o[1] + 4])), ArtifactFormatError, "gap"),
    "reversed": (of_header(offsets(lambda o: [o[1], o[0]])), ArtifactFormatError, "bytes for tensor"),
    "negative": (of_header(offsets(lambda o: [-4, o[1] - 4])), ArtifactFormatError, "data_offsets"),
    "past the end": (of_header(offsets(lambda o: [o[0] + 10**6, o[1] + 10**6])), ArtifactFormatError, "gap"),
    "shape and size": (of_header(entry(shape=[3, 3])), ArtifactFormatError, "bytes for tensor"),
    "shape overflow": (of_header(entry(shape=[2**61, 2**61])), ArtifactFormatError, "bytes for tensor"),
    "shape of true": (of_header(entry(shape=[True, 1])), ArtifactFormatError, "shape"),
    "size zero": (of_header(entry(shape=[0, 4], data_offsets=[0, 0])), ArtifactFormatError, "shape"),
    "rank 50": (of_header(entry(shape=[1] * 50)), ArtifactFormatError, "shape"),
    "duplicate name": (of_header(duplicated), ArtifactFormatError, "given twice"),
    "duplicate metadata": (
        of_header(lambda header: '{"__metadata__": {"a": "1", "a": "2"}, ' + json.dumps(header)[1:]),
        ArtifactFormatError,
        "given twice",
    ),
    "metadata no text": (
        of_header(lambda h: h.update(__metadata__={"a": 1})),
        ArtifactFormatError,
        "__metadata__",
    ),
    "unknown field": (of_header(entry(extra=1)), ArtifactFormatError, "fields"),
    "unknown dtype": (of_header(entry(dtype="F8_E4M3")), ArtifactFormatError, "dtype"),
    "float as integer": (of_header(entry(dtype="I32")), ArtifactFormatError, "dtype"),
    "path as name": (
        of_header(lambda h: h.update({"../../etc/passwd": h.pop(first(h))})),
        ArtifactMismatchError,
        "missing",
    ),
    "empty name": (of_header(lambda h: h.update({"": h.pop(first(h))})), ArtifactFormatError, "name"),
    "NUL in name": (of_header(lambda h: h.update({"a\0b": h.pop(first(h))})), ArtifactFormatError, "name"),
    "newline in name": (
        of_header(lambda h: h.update({"a\nb": h.pop(first(h))})),
        ArtifactFormatError,
        "name",
    ),
    "no tensors": (of_bytes(lambda _: join("{}", b"")), ArtifactFormatError, "no tensor"),
    "other dtype of that size": (
        of_header(
            lambda h: h[first(h)].update(
                dtype="BF16", shape=[h[first(h)]["shape"][0], 2 * h[first(h)]["shape"][1]]
            )
        ),
        ArtifactMismatchError,
        "BF16",
    ),
    "transposed": (
        of_header(lambda h: h[first(h)]["shape"].reverse()),
        ArtifactMismatchError,
        "expected F32",
    ),
    "renamed": (of_header(lambda h: h.update(other=h.pop(first(h)))), ArtifactMismatchError, "1 missing"),
    "prefixed": (
        of_header(lambda h: {f"model.{k}": v for k, v in h.items()}),
        ArtifactMismatchError,
        "missing",
    ),
    "NaN": (with_values(float("nan")), ArtifactMismatchError, "NaN"),
    "infinite": (with_values(float("inf")), ArtifactMismatchError, "infinite"),
    "all zero": (with_values(0.0), ArtifactMismatchError, "all zero"),
}


def one_key_less(folder: Path) -> None:
    def drop(data: bytes) -> bytes:
        header, body = split(data)
        last = max((n for n in header if n != "__metadata__"), key=lambda n: header[n]["data_offsets"][0])
        start = header.pop(last)["data_offsets"][0]
        return join(header, body[:start])

    change_bytes(folder, drop)


def one_key_more(folder: Path) -> None:
    def add(data: bytes) -> bytes:
        header, body = split(data)
        header["more"] = {"dtype": "F32", "shape": [1], "data_offsets": [len(body), len(body) + 4]}
        return join(header, body + struct.pack("<f", 1.0))

    change_bytes(folder, add)


BYTES["one tensor less"] = (one_key_less, ArtifactMismatchError, "1 missing")
BYTES["one tensor more"] = (one_key_more, ArtifactMismatchError, "unexpected")


@pytest.mark.parametrize("fault", BYTES)
def test_forged_bytes_are_refused_for_what_they_are(folder: Path, fault: str) -> None:
    spoil, error, words = BYTES[fault]
    spoil(folder)
    forge_hashes(folder)
    start = time.perf_counter()
    with pytest.raises(error, match=words) as caught:
        load_artifact(folder)
    assert time.perf_counter() - start < 1
    says_what_to_do(caught.value)


@pytest.mark.parametrize("fault", BYTES)
def test_damaged_bytes_are_refused(folder: Path, fault: str) -> None:
    BYTES[fault][0](folder)
    with pytest.raises((ArtifactIntegrityError, ArtifactFormatError)) as caught:
        load_artifact(folder)
    says_what_to_do(caught.value)


def says_what_to_do(error: ArtifactError) -> None:
    """File, expected (or what is right), and repair."""
    message = str(error)
    assert WEIGHTS in message
    assert "expected" in message
    assert "again" in message


def set_in(path: str, value: object) -> Callable[[dict], None]:
    def change(content: dict) -> None:
        *parents, last = path.split("/")
        for name in parents:
            content = content[name]
        content[last] = value

    return change


MANIFESTS: dict[str, tuple[Callable[[dict], object], type[ArtifactError], str]] = {
    "unknown field": (set_in("surprise", 1), ArtifactFormatError, "surprise"),
    "missing field": (lambda c: c.pop("concepts"), ArtifactFormatError, "concepts"),
    "no concepts": (set_in("concepts", []), ArtifactFormatError, "concepts"),
    "newer format": (set_in("format_version", 2), ArtifactVersionError, "install"),
    "no format": (lambda c: c.pop("format_version"), ArtifactFormatError, "format_version"),
    "format of text": (set_in("format_version", "1"), ArtifactFormatError, "format_version"),
    "format true": (set_in("format_version", True), ArtifactFormatError, "format_version"),
    "unknown component": (
        lambda c: c["components"].update(vae=c["components"]["unet"]),
        ArtifactFormatError,
        "vae",
    ),
    "unknown form": (set_in("components/unet/form", "lora"), ArtifactFormatError, "form"),
    "file outside": (set_in("components/unet/file", "../unet.safetensors"), ArtifactFormatError, "file"),
    "absolute file": (set_in("components/unet/file", "/etc/passwd"), ArtifactFormatError, "file"),
    "pickle": (set_in("components/unet/file", "unet.bin"), ArtifactFormatError, "file"),
    "shared file": (set_in("components/unet/file", WEIGHTS), ArtifactFormatError, "share|sha256"),
    "unlisted hash": (lambda c: c["files"].pop(WEIGHTS), ArtifactFormatError, WEIGHTS),
    "hash for nothing": (set_in("files/run.py", "0" * 64), ArtifactFormatError, "run.py"),
    "no hash": (set_in(f"files/{WEIGHTS}", "abc"), ArtifactFormatError, "files"),
    "no targets": (set_in("components/unet/targets", []), ArtifactFormatError, "targets"),
    "negative tolerance": (set_in("canary/tolerance", -1), ArtifactFormatError, "tolerance"),
    "canary without unet": (lambda c: c["canary"]["distances"].pop("unet"), ArtifactFormatError, "canary"),
    "control character": (set_in("method", "a\u001b[2J"), ArtifactFormatError, "method"),
    "text as number": (set_in("seed", "0"), ArtifactFormatError, "seed"),
    "huge tensor": (
        lambda c: c["components"]["text_encoder"]["tensors"][0].update(shape=[2**31, 2**31]),
        ArtifactFormatError,
        "larger",
    ),
    "exchanged hash": (set_in(f"files/{WEIGHTS}", "0" * 64), ArtifactIntegrityError, "0000000"),
    "other canary": (set_in("canary/file", "unet.safetensors"), ArtifactFormatError, "share|sha256"),
}


@pytest.mark.parametrize("fault", MANIFESTS)
def test_faulty_manifests_are_refused(folder: Path, fault: str) -> None:
    change, error, words = MANIFESTS[fault]
    change_manifest(folder, change)
    start = time.perf_counter()
    with pytest.raises(error, match=words):
        load_artifact(folder)
    assert time.perf_counter() - start < 1


def test_a_manifest_edited_by_hand_is_noticed(folder: Path) -> None:
    change_manifest(folder, lambda content: content["concepts"][0].update(name="dog"), seal=False)
    with pytest.raises(ArtifactIntegrityError, match="changed after it was written"):
        load_artifact(folder)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "not JSON"),
        (b"[]", "list"),
        (b"\xff\xfe", "UTF-8"),
        (b"[" * 100_000, "nested"),
        (b" " * (5 * 2**20), "at most"),
        (b'{"a": 1, "a": 2}', "twice"),
        (b'{"format_version": ' + b"1" * 5000 + b"}", "JSON"),
    ],
)
def test_texts_that_are_no_manifest(folder: Path, text: bytes, words: str) -> None:
    (folder / MANIFEST_NAME).write_bytes(text)
    start = time.perf_counter()
    with pytest.raises(ArtifactFormatError, match=words):
        load_artifact(folder)
    assert time.perf_counter() - start < 1


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_flipped_bit_is_accepted(saved_once: Path, tmp_path: Path, data: st.DataObject) -> None:
    names = sorted(path.name for path in saved_once.iterdir())
    for name in names:
        (tmp_path / name).write_bytes((saved_once / name).read_bytes())
    name = data.draw(st.sampled_from(names))
    content = bytearray((saved_once / name).read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= 1 << data.draw(st.integers(0, 7))
    (tmp_path / name).write_bytes(content)
    try:
        found = load_artifact(tmp_path)
    except ArtifactError:
        return
    # The one change without meaning: white space between the tokens of the manifest.
    assert name == MANIFEST_NAME
    assert json.loads(content) == json.loads((saved_once / name).read_bytes())
    assert found.digest == load_artifact(saved_once).digest


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_forged_mutants_raise_only_our_errors(saved_once: Path, tmp_path: Path, data: st.DataObject) -> None:
    for path in saved_once.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    content = bytearray((saved_once / WEIGHTS).read_bytes())
    start = data.draw(st.integers(0, min(len(content) - 1, 700)))
    content[start : start + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    (tmp_path / WEIGHTS).write_bytes(content)
    forge_hashes(tmp_path)
    try:
        found = load_artifact(tmp_path)
    except ArtifactError:
        return
    for tensor in found.edits["text_encoder"].tensors.values():
        assert bool(torch.isfinite(tensor).all())
        assert bool(tensor.any())
