"""Files that `torch.save` wrote, read as untrusted bytes.

Many published encoders exist only as `pytorch_model.bin`: an uncompressed zip archive with one record per
storage, and a table, `data.pkl`, that says which tensor is which part of which storage. The table is a
pickle, which `tensor_table` reads as data; the tensors are views of the bytes that were read, so that a later
change of the file does not reach them.

Only this form is read (torch 1.6 and later, little-endian). The checksum that a zip archive keeps of every
record is compared: it tells damage, not intent.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from diffusers_erasure.errors import ArtifactFormatError

from .tensor_table import Storage, TorchFileFault, View, read_table

TABLE_RECORD = "data.pkl"
MAX_TABLE_BYTES = 4 * 2**20
MAX_RECORDS = 20_000
_LOCAL_HEADER = struct.Struct("<4s22xHH")

Places = Mapping[str, tuple[int, int]]
"""First byte of each record and the byte after its last, by name."""


def read_torch_archive(data: bytearray, *, origin: str) -> dict[str, Tensor]:
    """The tensors of a file that `torch.save` wrote of a state dict.

    Args:
        data: The whole file; the tensors share its memory.
        origin: The file as the reader knows it, for messages.

    Raises:
        ArtifactFormatError: It is no such file, it is damaged, or it holds anything else than tensors.
    """
    try:
        places = _places(data)
        start, stop = _place(places, TABLE_RECORD)
        if stop - start > MAX_TABLE_BYTES:
            raise TorchFileFault(f"a table of {stop - start} bytes, more than {MAX_TABLE_BYTES}")
        table = read_table(bytes(data[start:stop]))
        _check_byte_order(data, places)
        return _tensors(data, places, table)
    except TorchFileFault as fault:
        raise ArtifactFormatError(
            f"{origin} has {fault}; expected the archive that torch.save writes of a state dict, with "
            "tensors and nothing else (it is read as data and never run); download it again, or convert it "
            "to safetensors where you trust it"
        ) from fault


class _Memory(io.RawIOBase):
    """Bytes as a file, without a copy of them."""

    def __init__(self, data: bytearray) -> None:
        self._view, self._position = memoryview(data), 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def readinto(self, target: Any) -> int:
        """Fill `target` from the current position on."""
        piece = self._view[self._position : self._position + len(target)]
        target[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move, as files do."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: len(self._view)}[whence]
        if start + offset < 0:
            raise OSError("a position before the start of the file")
        self._position = start + offset
        return self._position


def _places(data: bytearray) -> Places:
    """Where each record lies, by its name without the archive's own folder."""
    try:
        with zipfile.ZipFile(_Memory(data)) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError, struct.error) as error:
        raise TorchFileFault(f"no readable table of contents ({error})") from error
    if len(infos) > MAX_RECORDS:
        raise TorchFileFault(f"{len(infos)} records, more than {MAX_RECORDS}")
    found = {info.filename: _checked_place(data, info) for info in infos}
    if len(found) != len(infos):
        raise TorchFileFault("two records of one name")
    if any(stop > start for (_, stop), (start, _) in pairwise(sorted(found.values()))):
        raise TorchFileFault("records that overlap")
    if len({name.partition("/")[0] for name in found}) != 1:
        raise TorchFileFault("records that do not lie in one folder")
    return {name.partition("/")[2]: place for name, place in found.items()}


def _checked_place(data: bytearray, info: zipfile.ZipInfo) -> tuple[int, int]:
    """First byte of a record and the byte after its last; its header and checksum have to agree."""
    name = repr(info.filename[:80])
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.file_size != info.compress_size:
        raise TorchFileFault(f"the record {name} compressed or encrypted")
    named = info.header_offset + _LOCAL_HEADER.size
    header = data[info.header_offset : named]
    if info.header_offset < 0 or len(header) != _LOCAL_HEADER.size:
        raise TorchFileFault(f"no header for the record {name}")
    magic, name_length, extra_length = _LOCAL_HEADER.unpack(header)
    start = named + name_length + extra_length
    stop = start + info.file_size
    written = bytes(data[named : named + name_length])
    if magic != b"PK\x03\x04" or written != info.orig_filename.encode() or stop > len(data):
        raise TorchFileFault(f"a header that does not fit the record {name}")
    if zlib.crc32(memoryview(data)[start:stop]) != info.CRC:
        raise TorchFileFault(f"a wrong checksum for the record {name} (the file is damaged)")
    return start, stop


def _place(places: Places, name: str) -> tuple[int, int]:
    if name not in places:
        raise TorchFileFault(f"no record {name[:80]!r}")
    return places[name]


def _check_byte_order(data: bytearray, places: Places) -> None:
    start, stop = places.get("byteorder", (0, 0))
    order = bytes(data[start:stop][:20])
    if order not in (b"", b"little"):
        raise TorchFileFault(f"the byte order {order!r}, not b'little'")


def _tensors(data: bytearray, places: Places, table: Mapping[str, View]) -> dict[str, Tensor]:
    """Every tensor of the table; what is not alone in its storage, or not in order there, is a copy."""
    found: dict[str, Tensor] = {}
    used: set[str] = set()
    for name, view in table.items():
        tensor = _numbers(data, places, view.storage).as_strided(view.shape, view.strides, view.offset)
        alone = tensor.is_contiguous() and view.storage.key not in used
        found[name] = tensor if alone else tensor.clone(memory_format=torch.contiguous_format)
        used.add(view.storage.key)
    return found


def _numbers(data: bytearray, places: Places, storage: Storage) -> Tensor:
    """The numbers of one record, one-dimensional."""
    start, stop = _place(places, f"data/{storage.key}")
    if stop - start != storage.count * storage.dtype.itemsize:
        raise TorchFileFault(
            f"{stop - start} bytes in the record of a storage of {storage.count} numbers ({storage.dtype})"
        )
    if start % storage.dtype.itemsize:
        return torch.frombuffer(data[start:stop], dtype=storage.dtype)
    return torch.frombuffer(data, dtype=storage.dtype, count=storage.count, offset=start)
