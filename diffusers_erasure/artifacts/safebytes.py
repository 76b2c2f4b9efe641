"""safetensors files as untrusted bytes: read once, hashed, and turned into tensors from those very bytes.

The format has no checksum, its reader maps the file (so that a later overwrite changes tensors already
loaded), and it accepts some headers that mean two things. Here a file is read into memory that belongs to us,
its header is parsed strictly, and the tensors are views of that memory.

Format: 8 bytes little-endian header length; JSON header `{name: {dtype, shape, data_offsets}}`; data without
gaps.
"""

import hashlib
import math
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, NoReturn, cast

import torch
from torch import Tensor

from diffusers_erasure.errors import ArtifactFormatError, ArtifactMismatchError, ArtifactNotFoundError

from .jsontext import parse_json
from .manifest import ITEM_BYTES, MAX_FILE_BYTES, MAX_TENSORS, TensorSpec
from .tensors import TORCH_TYPES

MAX_HEADER_BYTES = 8 * 2**20
MAX_NAME_LENGTH = 256
MAX_RANK = 8
_REPAIR = "download or save the artifact again"


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies in the data part of a file."""

    spec: TensorSpec
    start: int
    stop: int


def read_bytes(path: Path, *, origin: str, max_bytes: int = MAX_FILE_BYTES) -> bytearray:
    """The content of a regular file of bounded size, read once into private memory."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "no regular file"
            raise ArtifactFormatError(f"{origin} is {kind}; expected a file; {_REPAIR}")
        if status.st_size > max_bytes:
            raise ArtifactFormatError(
                f"{origin} has {status.st_size} bytes; expected at most {max_bytes}; this is no file of an "
                "artifact"
            )
        with path.open("rb", buffering=0) as file:
            return _fill(file, status.st_size, origin)
    except FileNotFoundError as error:
        raise ArtifactNotFoundError(f"{origin} does not exist; the manifest names it; {_REPAIR}") from error
    except OSError as error:
        raise ArtifactNotFoundError(
            f"{origin} cannot be read ({error.strerror}); expected a readable file; check the path and its "
            "permissions"
        ) from error


def sha256_of(data: bytes | bytearray | memoryview) -> str:
    """Hexadecimal sha256."""
    return hashlib.sha256(data).hexdigest()


def parse_header(data: bytearray, *, origin: str) -> dict[str, Entry]:
    """The table of tensors at the start of a safetensors file, checked against the size of the data.

    Args:
        data: The whole file.
        origin: The file as the reader knows it, for messages.
    """
    if len(data) < 8:
        _refuse(origin, f"{len(data)} bytes", "a safetensors file of at least 8")
    length = int.from_bytes(data[:8], "little")
    if length > MAX_HEADER_BYTES:
        _refuse(origin, f"a header length of {length} bytes", f"at most {MAX_HEADER_BYTES}")
    if 8 + length > len(data):
        _refuse(
            origin, f"{len(data)} bytes", f"a header of {length} bytes and its data (the file is truncated)"
        )
    header = parse_json(bytes(data[8 : 8 + length]), origin=origin, max_bytes=MAX_HEADER_BYTES, max_depth=4)
    if not isinstance(header, dict):
        _refuse(origin, f"a header that is a JSON {type(header).__name__}", "an object")
    _check_metadata(header.pop("__metadata__", {}), origin)
    if not header:
        _refuse(origin, "no tensor", "at least one")
    if len(header) > MAX_TENSORS:
        _refuse(origin, f"{len(header)} tensors", f"at most {MAX_TENSORS}")
    entries = {name: _entry(name, fields, origin) for name, fields in header.items()}
    _check_layout(entries, len(data) - 8 - length, origin)
    return entries


def tensors_from(data: bytearray, entries: Mapping[str, Entry]) -> dict[str, Tensor]:
    """Tensors over the bytes of a file; they share its memory and nobody else does."""
    offset = 8 + int.from_bytes(data[:8], "little")
    return {name: _tensor(data, offset, entry) for name, entry in entries.items()}


def check_table(entries: Mapping[str, Entry], expected: Iterable[TensorSpec], *, origin: str) -> None:
    """Refuse a file whose tensors differ from the manifest's in name, shape or dtype."""
    wanted = {spec.name: spec for spec in expected}
    missing, extra = sorted(set(wanted) - set(entries)), sorted(set(entries) - set(wanted))
    if missing or extra:
        raise ArtifactMismatchError(
            f"{origin} has other tensors than its manifest: {len(missing)} missing{_first(missing)}, "
            f"{len(extra)} unexpected{_first(extra)}; expected {len(wanted)}, found {len(entries)}; {_REPAIR}"
        )
    for name, spec in wanted.items():
        found = entries[name].spec
        if found != spec:
            raise ArtifactMismatchError(
                f"tensor {name!r} of {origin} is {found.dtype} {found.shape}; expected {spec.dtype} "
                f"{spec.shape}; {_REPAIR}"
            )


def _fill(file: FileIO, size: int, origin: str) -> bytearray:
    """Read exactly `size` bytes; a file that grows or shrinks meanwhile is refused."""
    data = bytearray(size)
    view, position = memoryview(data), 0
    while position < size:
        got = file.readinto(view[position:])
        if not got:
            _refuse(origin, f"{position} bytes", f"{size} (the file was changed while it was read)")
        position += got
    if file.read(1):
        _refuse(origin, f"more than {size} bytes", f"{size} (the file was changed while it was read)")
    return data


def _check_metadata(metadata: Any, origin: str) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        _refuse(origin, "a __metadata__ entry that is not text by name", "strings only")


def _entry(name: str, fields: Any, origin: str) -> Entry:
    if not name or len(name) > MAX_NAME_LENGTH or not name.isascii() or not name.isprintable():
        _refuse(origin, f"the tensor name {name[:80]!r}", "a plain name of at most 256 letters")
    if not isinstance(fields, dict) or set(fields) != {"dtype", "shape", "data_offsets"}:
        found = sorted(fields) if isinstance(fields, dict) else type(fields).__name__
        _refuse(origin, f"the fields {str(found)[:200]} for tensor {name!r}", "dtype, shape and data_offsets")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        _refuse(
            origin, f"the dtype {str(dtype)[:40]!r} for tensor {name!r}", f"one of {', '.join(ITEM_BYTES)}"
        )
    if not _are_sizes(shape) or len(shape) > MAX_RANK:
        _refuse(
            origin, f"the shape {str(shape)[:80]} for tensor {name!r}", f"up to {MAX_RANK} sizes from 1 on"
        )
    if not _are_sizes(offsets, least=0) or len(offsets) != 2:
        _refuse(origin, f"the data_offsets {str(offsets)[:80]} for tensor {name!r}", "two positions")
    if offsets[1] - offsets[0] != math.prod(shape) * ITEM_BYTES[dtype]:
        _refuse(
            origin,
            f"{offsets[1] - offsets[0]} bytes for tensor {name!r}",
            f"{math.prod(shape) * ITEM_BYTES[dtype]} for {dtype} {tuple(shape)}",
        )
    spec = TensorSpec.model_construct(name=name, shape=tuple(shape), dtype=cast(Any, dtype))
    return Entry(spec, offsets[0], offsets[1])


def _are_sizes(value: Any, *, least: int = 1) -> bool:
    return isinstance(value, list) and all(type(size) is int and least <= size < 2**62 for size in value)


def _check_layout(entries: Mapping[str, Entry], size: int, origin: str) -> None:
    position = 0
    for entry in sorted(entries.values(), key=lambda item: item.start):
        if entry.start != position:
            _refuse(
                origin,
                f"tensor {entry.spec.name!r} at byte {entry.start}",
                f"{position} (no gap and no overlap)",
            )
        position = entry.stop
    if position != size:
        what = "truncated" if position > size else "longer than its header says"
        _refuse(origin, f"{size} bytes of data", f"{position} (the file is {what})")


def _tensor(data: bytearray, offset: int, entry: Entry) -> Tensor:
    dtype, start = TORCH_TYPES[entry.spec.dtype], offset + entry.start
    count = math.prod(entry.spec.shape)
    if start % ITEM_BYTES[entry.spec.dtype]:
        aligned = bytearray(data[start : offset + entry.stop])
        return torch.frombuffer(aligned, dtype=dtype, count=count).reshape(entry.spec.shape)
    return torch.frombuffer(data, dtype=dtype, count=count, offset=start).reshape(entry.spec.shape)


def _first(names: list[str]) -> str:
    return f" ({', '.join(repr(name) for name in names[:5])})" if names else ""


def _refuse(origin: str, found: str, expected: str) -> NoReturn:
    raise ArtifactFormatError(f"{origin} has {found}; expected {expected}; {_REPAIR}")
