"""Ways to spoil an artifact, and a forger who makes the hashes agree again."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffusers_erasure.artifacts.manifest import MANIFEST_NAME, canonical_json

WEIGHTS = "text_encoder.safetensors"


def split(data: bytes) -> tuple[dict[str, Any], bytes]:
    length = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def join(header: dict[str, Any] | str | bytes, body: bytes) -> bytes:
    text = header if isinstance(header, str | bytes) else json.dumps(header)
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw + body


def change_bytes(folder: Path, change: Callable[[bytes], bytes], name: str = WEIGHTS) -> None:
    path = folder / name
    path.write_bytes(change(path.read_bytes()))


def change_header(folder: Path, change: Callable[[dict[str, Any]], Any], name: str = WEIGHTS) -> None:
    def whole(data: bytes) -> bytes:
        header, body = split(data)
        changed = change(header)
        return join(header if changed is None else changed, body)

    change_bytes(folder, whole, name)


def change_manifest(folder: Path, change: Callable[[dict[str, Any]], Any], *, seal: bool = True) -> None:
    path = folder / MANIFEST_NAME
    content = json.loads(path.read_text())
    change(content)
    if seal:
        content.pop("checksum", None)
        content = {"checksum": hashlib.sha256(canonical_json(content)).hexdigest(), **content}
    path.write_text(json.dumps(content))


def forge_hashes(folder: Path) -> None:
    """What someone would do who changes a file and wants it accepted."""

    def update(content: dict[str, Any]) -> None:
        for name in content["files"]:
            if (folder / name).is_file():
                content["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()

    change_manifest(folder, update)
