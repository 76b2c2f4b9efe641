"""Files of `torch.save`: read exactly where they hold tensors, refused without running them where not."""

from __future__ import annotations

import io
import os
import pickle
import re
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diffusers_erasure.encoders.torch_archive import read_torch_archive
from diffusers_erasure.errors import ArtifactFormatError


def saved(value: object, **options: Any) -> bytearray:
    """What `torch.save` writes."""
    file = io.BytesIO()
    torch.save(value, file, **options)
    return bytearray(file.getvalue())


def repacked(data: bytes, *, method: int = zipfile.ZIP_STORED, **changes: bytes | None) -> bytearray:
    """The archive with the content of some records replaced (None: left out); dots stand for `__`."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(file, "w", method) as new:
        for info in old.infolist():
            content = changes.get(info.filename.partition("/")[2].replace(".", "__"), old.read(info))
            if content is not None:
                new.writestr(info.filename, content)
    return bytearray(file.getvalue())


def read(data: bytearray) -> dict[str, Tensor]:
    return read_torch_archive(data, origin="the file")


SMALL = saved({"a": torch.arange(6.0).reshape(2, 3)})


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64], ids=str
)
@pytest.mark.parametrize("shape", [(), (1,), (3, 4), (2, 3, 5)], ids=str)
def test_it_reads_what_was_saved(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {name: (100 * torch.randn(shape, generator=generator)).to(dtype) for name in ("a", "b.weight")}
    found = read(saved(tensors))
    assert list(found) == list(tensors)
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    assert all(found[name].dtype == dtype for name in tensors)


def test_it_agrees_with_torch_on_the_state_dict_of_a_module() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Embedding(7, 3))
    data = saved(module.state_dict())
    expected = torch.load(io.BytesIO(data), weights_only=True)
    found = read(data)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_views_keep_their_values_and_share_no_memory() -> None:
    whole = torch.arange(24.0).reshape(4, 6)
    tensors = {
        "turned": whole.T,
        "part": whole[1:3, 2:4],
        "spread": whole[0, 0].expand(2)[:1],
        "whole": whole,
    }
    found = read(saved(tensors))
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    assert all(tensor.is_contiguous() for tensor in found.values())
    found["turned"].zero_()
    assert torch.equal(found["whole"], whole)


class Runs:
    """An object whose pickle runs a command when it is read the usual way."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("place", ["alone", "among tensors"])
def test_a_pickle_that_runs_code_is_refused_and_not_run(tmp_path: Path, protocol: int, place: str) -> None:
    mark = tmp_path / "ran"
    value = Runs(mark) if place == "alone" else {"text_model.x": Runs(mark)}
    program = pickle.dumps(value, protocol=protocol)
    with pytest.raises(ArtifactFormatError, match="never run"):
        read(repacked(SMALL, data__pkl=program))
    assert not mark.exists()
    pickle.loads(program)  # noqa: S301 - shows that the program is one that would run
    assert mark.exists()


def test_the_name_that_a_pickle_asks_for_is_told(tmp_path: Path) -> None:
    program = pickle.dumps(Runs(tmp_path / "ran"), protocol=2)
    with pytest.raises(ArtifactFormatError, match=f"the name '{os.name} system' in its table"):
        read(repacked(SMALL, data__pkl=program))


def program(*instructions: bytes) -> bytes:
    return b"\x80\x02" + b"".join(instructions) + b"."


NAME, TENSOR = b"X\x01\x00\x00\x00a", b"ctorch._utils\n_rebuild_tensor_v2\n"
STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x06tQ"
HOOKS = b"\x89ccollections\nOrderedDict\n)Rt"


def tensor(offset: int, shape: bytes, strides: bytes, storage: bytes = STORAGE) -> bytes:
    """A program that puts one tensor into a table."""
    return program(
        b"}", NAME, TENSOR, b"(", storage, b"K", bytes([offset]), shape, strides, HOOKS, b"R", b"s"
    )


LARGE = b"\x8a\x08" + struct.pack("<q", 2**60)
PROGRAMS = {
    "no program": b"",
    "cut off": b"\x80\x02}",
    "empty table": program(b"}"),
    "a list": program(b"]"),
    "a number": program(b"K\x01"),
    "an import by eval": program(b"cbuiltins\neval\n", NAME, b"\x85R"),
    "an import of a torch function": program(b"ctorch\nload\n", NAME, b"\x85R"),
    "a name that is called wrongly": program(b"ctorch\nFloatStorage\n", NAME, b"\x85R"),
    "an object that is built": program(b"ccollections\nOrderedDict\n)\x81}b"),
    "attributes": program(b"}", b"}", NAME, b"K\x01sb"),
    "memory that was not kept": program(b"h\x05"),
    "an empty stack": program(b"R"),
    "a mark too few": program(b"t"),
    "a mark too many": program(b"(", b"}"),
    "a value beyond a mark": program(b"}", b"(", NAME, b"K\x01", b"s"),
    "a number as name": program(b"}", b"K\x01", b"K\x01", b"s"),
    "a table as name": program(b"}", b"}", b"K\x01", b"s"),
    "a name without a value": program(b"}", b"(", NAME, b"u"),
    "a text in place of a tensor": program(b"}", NAME, NAME, b"s"),
    "a table within the table": program(b"}", NAME, b"}", b"s"),
    "two tensors of one name": program(b"}", b"(", NAME, b"K\x01", NAME, b"K\x01", b"u"),
    "garbage": bytes(range(1, 200)),
    "beyond the storage": tensor(0, b"K\x07\x85", b"K\x01\x85"),
    "beyond it by its offset": tensor(1, b"K\x06\x85", b"K\x01\x85"),
    "beyond it by its strides": tensor(0, b"K\x02K\x03\x86", b"K\x04K\x01\x86"),
    "more numbers than stored": tensor(0, LARGE + b"\x85", b"K\x00\x85"),
    "no numbers": tensor(0, b"K\x00\x85", b"K\x01\x85"),
    "a negative stride": tensor(0, b"K\x02\x85", b"J\xff\xff\xff\xff\x85"),
    "shape and strides that differ in length": tensor(0, b"K\x06\x85", b"K\x01K\x01\x86"),
    "another record's size": tensor(0, b"K\x02\x85", b"K\x01\x85", STORAGE.replace(b"K\x06", b"K\x07")),
    "a record that is not there": tensor(
        0, b"K\x02\x85", b"K\x01\x85", STORAGE.replace(b"\x01\x00\x00\x000", b"\x01\x00\x00\x009")
    ),
    "a path as record": tensor(
        0, b"K\x02\x85", b"K\x01\x85", STORAGE.replace(b"\x01\x00\x00\x000", b"\x05\x00\x00\x00../..")
    ),
    "another storage": tensor(0, b"K\x06\x85", b"K\x01\x85", STORAGE.replace(b"Float", b"Int")),
}

WHY = {
    "no program": "cut off or garbled",
    "cut off": "cut off or garbled",
    "garbage": "cut off or garbled",
    "empty table": "no tensor",
    "a list": "the instruction EMPTY_LIST",
    "a number": "a int in place",
    "an import by eval": "the name 'builtins eval'",
    "an import of a torch function": "the name 'torch load'",
    "a name that is called wrongly": "a call that makes no tensor",
    "an object that is built": "the instruction NEWOBJ",
    "attributes": "attributes other than",
    "memory that was not kept": "recalls what it did not keep",
    "an empty stack": "takes more values",
    "a value beyond a mark": "takes more values",
    "a mark too few": "closes what it did not open",
    "a mark too many": "in place of a table",
    "a number as name": "whose name is no text",
    "a table as name": "whose name is no text",
    "a name without a value": "what is no table",
    "a text in place of a tensor": "a str in place of the tensor 'a'",
    "a table within the table": "a dict in place of the tensor 'a'",
    "two tensors of one name": "two tensors of one name",
    "beyond the storage": "beyond its storage of 6",
    "beyond it by its offset": "beyond its storage of 6",
    "beyond it by its strides": "beyond its storage of 6",
    "more numbers than stored": "beyond its storage of 6",
    "no numbers": "a size that is no number",
    "a negative stride": "a size that is no number",
    "shape and strides that differ in length": "1 sizes and 2 strides",
    "another record's size": "storage of 7 numbers",
    "a record that is not there": "no record 'data/9'",
    "a path as record": "no record 'data/../..'",
    "another storage": "IntStorage",
}
"""What the error says of each program."""


def test_the_programs_of_this_file_are_near_a_good_one() -> None:
    good = repacked(SMALL, data__pkl=tensor(0, b"K\x02K\x03\x86", b"K\x03K\x01\x86"))
    assert torch.equal(read(good)["a"], torch.arange(6.0).reshape(2, 3))


@pytest.mark.parametrize("fault", PROGRAMS)
def test_programs_that_describe_no_tensors_are_refused(fault: str) -> None:
    with pytest.raises(ArtifactFormatError, match=re.escape(WHY[fault])) as caught:
        read(repacked(SMALL, data__pkl=PROGRAMS[fault]))
    assert re.fullmatch(r"the file has .*; expected .*; download it again, .*", str(caught.value))


def flipped(data: bytearray) -> bytearray:
    """One bit of the first number is another."""
    changed = bytearray(data)
    changed[data.index(struct.pack("<f", 5.0))] ^= 1
    return changed


def twice(data: bytearray) -> bytearray:
    file = io.BytesIO(data)
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(file, "a") as archive:
        archive.writestr(archive.namelist()[0], b"")
    return bytearray(file.getvalue())


FILES: dict[str, tuple[Callable[[], bytearray], str]] = {
    "nothing": (bytearray, "table of contents"),
    "a safetensors file": (lambda: bytearray(b"\x08" + bytes(7) + b"{}      "), "table of contents"),
    "the form before torch 1.6": (
        lambda: saved({"a": torch.ones(2)}, _use_new_zipfile_serialization=False),
        "table of contents",
    ),
    "a file that is cut off": (lambda: SMALL[:-30], "table of contents"),
    "a damaged number": (lambda: flipped(SMALL), "wrong checksum"),
    "compression": (lambda: repacked(SMALL, method=zipfile.ZIP_DEFLATED), "compressed"),
    "no table": (lambda: repacked(SMALL, data__pkl=None), "no record 'data.pkl'"),
    "a table without end": (lambda: repacked(SMALL, data__pkl=b"\x80\x02" + b"0" * 5_000_000), "more than"),
    "two records of one name": (lambda: twice(SMALL), "two records"),
    "the other byte order": (lambda: repacked(SMALL, byteorder=b"big"), "byte order b'big'"),
    "another protocol": (lambda: saved({"a": torch.ones(2)}, pickle_protocol=4), "protocol 4"),
    "a whole module": (lambda: saved(nn.Linear(2, 2)), "Linear' in its table"),
    "a checkpoint of a trainer": (lambda: saved({"state_dict": {"a": torch.ones(2)}, "epoch": 3}), "a dict"),
    "one tensor alone": (lambda: saved(torch.ones(2)), "in place of a table"),
    "integers of another size": (lambda: saved({"a": torch.ones(2, dtype=torch.int8)}), "CharStorage"),
}


@pytest.mark.parametrize("fault", FILES)
def test_other_files_are_refused_by_what_they_are(fault: str) -> None:
    make, message = FILES[fault]
    with pytest.raises(ArtifactFormatError, match=message):
        read(make())


def test_any_cut_and_any_changed_byte_is_refused_or_harmless() -> None:
    good = read(SMALL)["a"]
    for length in range(0, len(SMALL), 7):
        with pytest.raises(ArtifactFormatError):
            read(SMALL[:length])
    refused = 0
    for position in range(len(SMALL)):
        changed = bytearray(SMALL)
        changed[position] ^= 0x41
        try:
            assert torch.equal(read(changed)["a"], good)
        except ArtifactFormatError:
            refused += 1
    assert refused > len(SMALL) // 3


def test_an_ordered_table_with_metadata_is_read() -> None:
    table = OrderedDict(a=torch.ones(2))
    table._metadata = OrderedDict({"": {"version": 1}})  # type: ignore[attr-defined]
    assert torch.equal(read(saved(table))["a"], torch.ones(2))


def test_tensors_on_one_storage_share_no_memory() -> None:
    whole = torch.arange(12.0).reshape(4, 3)
    found = read(saved({"whole": whole, "head": whole[:2]}))
    found["whole"].zero_()
    assert torch.equal(found["head"], whole[:2])


def test_a_record_within_another_one_is_refused() -> None:
    """Header, name and checksum of the inner one fit, but its bytes are also those of the outer one."""
    inner, file = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("archive/data/0", struct.pack("<6f", *range(6)))
        (hidden,), size = archive.infolist(), archive.start_dir
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", tensor(0, b"K\x02K\x03\x86", b"K\x03K\x01\x86"))
        archive.writestr("archive/outer", inner.getvalue()[:size])
        hidden.header_offset = archive.start_dir - size
        archive.filelist.append(hidden)
    with pytest.raises(ArtifactFormatError, match="records that overlap"):
        read(bytearray(file.getvalue()))


def test_a_record_that_calls_itself_otherwise_is_refused() -> None:
    """The table of contents names it; the header in front of its bytes has to say the same."""
    changed = bytearray(SMALL)
    changed[changed.index(b"archive/data/0")] = ord("b")
    assert zipfile.ZipFile(io.BytesIO(changed)).namelist() == zipfile.ZipFile(io.BytesIO(SMALL)).namelist()
    with pytest.raises(ArtifactFormatError, match="does not fit the record"):
        read(changed)
