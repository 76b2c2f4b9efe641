"""The table of tensors in a file of `torch.save`: a pickle that is read as data and never run.

A pickle is a program for a small stack machine, and the usual reader runs it with all of Python at its
service. Here it is taken apart by the standard library's disassembler, and the few instructions that a state
dict consists of are followed on plain values. The names that it may say are a closed list and stand for notes
of ours: nothing is imported, called or looked up. Any other instruction or name is refused by name.

Only pickle protocol 2 is read, the one that `torch.save` writes unless told otherwise.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

PROTOCOL = 2
MAX_RANK = 8
STORAGES: Mapping[str, torch.dtype] = {
    "torch DoubleStorage": torch.float64,
    "torch FloatStorage": torch.float32,
    "torch HalfStorage": torch.float16,
    "torch BFloat16Storage": torch.bfloat16,
    "torch LongStorage": torch.int64,
}
NAMES = frozenset({*STORAGES, "collections OrderedDict", "torch._utils _rebuild_tensor_v2"})
"""Everything that a table may refer to."""


class TorchFileFault(Exception):  # noqa: N818 - it becomes one of our errors where the file is known
    """What a file has that it should not have, as the end of a sentence that begins with the file."""


@dataclass(frozen=True)
class Storage:
    """One record of the file: `count` numbers of one dtype."""

    key: str
    dtype: torch.dtype
    count: int


@dataclass(frozen=True)
class View:
    """A tensor as part of a storage; offset and strides count numbers, not bytes."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class _Name:
    """One of `NAMES`, as the table said it."""

    text: str


def read_table(program: bytes) -> dict[str, View]:
    """Tensors by name, as the table describes them.

    Args:
        program: The pickle.

    Raises:
        TorchFileFault: It does anything else than describe tensors by name.
    """
    table = _StackMachine().run(program)
    for name, entry in table.items():
        if not isinstance(entry, View):
            raise TorchFileFault(f"a {type(entry).__name__} in place of the tensor {name[:80]!r}")
    if not table:
        raise TorchFileFault("no tensor")
    return table


class _StackMachine:
    """The machine that pickles are written for, cut down to what a state dict needs, over plain values."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._steps: dict[str, Callable[[Any], None]] = {
            "PROTO": self._protocol,
            "GLOBAL": self._name,
            "BINPERSID": self._storage,
            "REDUCE": self._call,
            "BUILD": self._attributes,
            "MARK": self._mark,
            "SETITEM": lambda _: self._set_items(self._take(2)),
            "SETITEMS": lambda _: self._set_items(self._take_marked()),
            "EMPTY_DICT": lambda _: self._push({}),
            "EMPTY_TUPLE": lambda _: self._push(()),
            "TUPLE": lambda _: self._push(tuple(self._take_marked())),
            "NONE": lambda _: self._push(None),
            "NEWTRUE": lambda _: self._push(True),
            "NEWFALSE": lambda _: self._push(False),
        }
        self._steps |= {f"TUPLE{count}": partial(self._tuple, count) for count in (1, 2, 3)}
        self._steps |= dict.fromkeys(("BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1"), self._push)
        self._steps |= dict.fromkeys(("BINPUT", "LONG_BINPUT"), self._remember)
        self._steps |= dict.fromkeys(("BINGET", "LONG_BINGET"), self._recall)

    def run(self, program: bytes) -> dict[str, Any]:
        """Follow the program to its end; what it leaves is the table."""
        try:
            for instruction, argument, _ in pickletools.genops(program):
                if instruction.name == "STOP":
                    break
                if instruction.name not in self._steps:
                    raise TorchFileFault(f"the instruction {instruction.name}, which no tensor needs")
                self._steps[instruction.name](argument)
        except ValueError as error:
            raise TorchFileFault("a table that is cut off or garbled") from error
        (table,) = self._take(1)
        if self._stack or self._marks or not isinstance(table, dict):
            raise TorchFileFault(f"a {type(table).__name__} in place of a table of tensors by name")
        return table

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _take(self, count: int) -> list[Any]:
        start = len(self._stack) - count
        if start < (self._marks[-1] if self._marks else 0):
            raise TorchFileFault("a table that takes more values than it gave")
        taken = self._stack[start:]
        del self._stack[start:]
        return taken

    def _mark(self, _: Any) -> None:
        self._marks.append(len(self._stack))

    def _take_marked(self) -> list[Any]:
        if not self._marks:
            raise TorchFileFault("a table that closes what it did not open")
        taken = self._take(len(self._stack) - self._marks[-1])
        self._marks.pop()
        return taken

    def _tuple(self, count: int, _: Any) -> None:
        self._push(tuple(self._take(count)))

    def _remember(self, place: int) -> None:
        (value,) = self._take(1)
        self._memo[place] = value
        self._push(value)

    def _recall(self, place: int) -> None:
        if place not in self._memo:
            raise TorchFileFault("a table that recalls what it did not keep")
        self._push(self._memo[place])

    def _protocol(self, version: int) -> None:
        if version != PROTOCOL:
            raise TorchFileFault(f"a table in pickle protocol {version}, not {PROTOCOL}")

    def _name(self, text: str) -> None:
        if text not in NAMES:
            raise TorchFileFault(f"the name {text[:80]!r} in its table, which no tensor needs")
        self._push(_Name(text))

    def _set_items(self, items: list[Any]) -> None:
        (target,) = self._take(1)
        keys, values = items[::2], items[1::2]
        if not isinstance(target, dict) or len(keys) != len(values):
            raise TorchFileFault("a table that sets entries of what is no table")
        if not all(isinstance(key, str) for key in keys):
            raise TorchFileFault("an entry whose name is no text")
        if target.keys() & set(keys) or len(set(keys)) != len(keys):
            raise TorchFileFault("two tensors of one name")
        target.update(zip(keys, values, strict=True))
        self._push(target)

    def _attributes(self, _: Any) -> None:
        """A state dict's `_metadata`: versions of layers, which no weight needs. Dropped."""
        target, state = self._take(2)
        if not isinstance(target, dict) or not isinstance(state, dict) or set(state) != {"_metadata"}:
            raise TorchFileFault("a table with attributes other than _metadata")
        self._push(target)

    def _storage(self, _: Any) -> None:
        (parts,) = self._take(1)
        match parts:
            case ("storage", _Name(text), str(key), str(), int(count)) if text in STORAGES and count > 0:
                self._push(Storage(key, STORAGES[text], count))
            case _:
                raise TorchFileFault("a reference that is no storage of a known dtype")

    def _call(self, _: Any) -> None:
        match self._take(2):
            case [_Name("collections OrderedDict"), ()]:
                self._push({})
            case [
                _Name("torch._utils _rebuild_tensor_v2"),
                (Storage() as storage, int(offset), tuple(shape), tuple(strides), bool(), dict()),
            ]:
                self._push(_view(storage, offset, shape, strides))
            case _:
                raise TorchFileFault("a call that makes no tensor")


def _view(storage: Storage, offset: int, shape: tuple[Any, ...], strides: tuple[Any, ...]) -> View:
    if not all(type(size) is int and 0 <= size < 2**62 for size in (offset, *shape, *strides)) or 0 in shape:
        raise TorchFileFault("a tensor with a size that is no number from 1 on")
    if len(shape) != len(strides) or len(shape) > MAX_RANK:
        raise TorchFileFault(f"a tensor of {len(shape)} sizes and {len(strides)} strides")
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if last >= storage.count or math.prod(shape) > storage.count:
        raise TorchFileFault(f"a tensor that reaches beyond its storage of {storage.count} numbers")
    return View(storage, offset, shape, strides)
