"""A second device that every machine has: tensors that say they are elsewhere, and compute on the CPU.

Most people hold their pipeline on a GPU, and a machine that tests may have none. What differs there is less
the arithmetic than the place: a table that was left on the CPU, a mask that was made there, an array taken
without `.cpu()`. Such faults need no GPU to be found, only tensors that refuse to meet others as a GPU's do.

Inside `second_device()`, `.to(SECOND)` gives such tensors. Rules are CUDA's: all tensors of an operation lie
on one device, but for single numbers (zero dimensions) and for indices, which may lie on the CPU; NumPy takes
none of them; generators of random numbers stay on the CPU. What it cannot show: speed, memory, kernels,
streams, and offloading piece by piece, for which libraries use the `meta` device that stands in for this.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
from diffusers import ModelMixin
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import (
    TorchDispatchMode,
    _disable_current_modes,
    return_and_correct_aliasing,
)
from torch.utils._pytree import tree_map
from transformers import PreTrainedModel

from diffusers_erasure.diffusion.precision import float64_device

SECOND = torch.device("privateuseone", 0)
_CPU = torch.device("cpu")
_refused: set[torch.dtype] = set()
_aten = torch.ops.aten
_MOVES = {_aten._to_copy.default, _aten.copy_.default}
_INDEXED = {
    _aten.index.Tensor,
    _aten.index_put_.default,
    _aten.index_put.default,
    _aten._index_put_impl_.default,
}


class SecondTensor(Tensor):
    """A tensor of the second device; `held` is where its numbers really are."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> SecondTensor:
        if held.dtype in _refused:
            raise TypeError(f"{SECOND} has no {held.dtype}")
        with torch.inference_mode(mode=False):  # torch keeps count of the versions of its views
            tensor: SecondTensor = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
                cls,
                held.size(),
                strides=held.stride(),
                storage_offset=held.storage_offset(),
                dtype=held.dtype,
                device="meta",  # not the CPU, so that torch asks before it takes the numbers
            )
        tensor.held = held
        return tensor

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """Where it says that it is."""
        return SECOND

    @property
    def is_meta(self) -> bool:  # type: ignore[override]
        """It has numbers."""
        return False

    def untyped_storage(self) -> torch.UntypedStorage:
        """Where the numbers lie, by which savers tell tensors apart."""
        return self.held.untyped_storage()

    def data_ptr(self) -> int:
        """The same."""
        return self.held.data_ptr()

    def __deepcopy__(self, memo: dict[int, Any]) -> SecondTensor:
        """A copy with storage of its own; a parameter's is a parameter."""
        copied = SecondTensor(self.held.clone())
        copied.requires_grad_(self.requires_grad)
        found: Any = (
            torch.nn.Parameter(copied, self.requires_grad) if isinstance(self, torch.nn.Parameter) else copied
        )
        memo[id(self)] = found
        return found  # type: ignore[no-any-return]

    def __repr__(self) -> str:  # type: ignore[override]
        """For a failure's message."""
        return f"SecondTensor({self.held!r})"

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Reached in threads, which know of no mode."""
        return _compute(function, args, kwargs)


class _Places(TorchDispatchMode):
    """Hears of operations that no tensor of the second device takes part in, such as the way there."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.is_inference_mode_enabled():  # there, torch hands over operations that consist of others
            with self:
                parts = function.decompose(*args, **(kwargs or {}))
            if parts is not NotImplemented:
                return parts
        return _compute(function, args, kwargs)


class _Numbers(TorchFunctionMode):
    """What torch does below the dispatcher, it would do without the numbers; so it is done here."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = dict(kwargs or {})
        first = args[0] if args else None
        if isinstance(first, SecondTensor):
            if function is Tensor.tolist:
                return first.held.tolist()
            if function is Tensor.data.__set__:  # type: ignore[attr-defined]
                first.held = args[1].held
            if function in (Tensor.__getitem__, Tensor.__setitem__):
                args = (first, _index(args[1]), *args[2:])
        asked = given.get("device")
        if function in (torch.tensor, torch.as_tensor) and asked is not None:
            return function(*args, **{**given, "device": None}).to(asked)
        return function(*args, **given)


def _index(asked: Any) -> Any:
    """An index whose lists are tensors."""
    if isinstance(asked, tuple):
        return tuple(map(_index, asked))
    return torch.tensor(asked) if isinstance(asked, list) else asked


def _compute(function: Any, args: Any, kwargs: Any) -> Any:
    """Do an operation on the CPU, and keep account of the place."""
    given = dict(kwargs or {})
    tensors = _tensors((args, given))
    here = [one for one in tensors if isinstance(one, SecondTensor)]
    asked = given.get("device")
    stays = _is_second(asked) if asked is not None else bool(here)
    if not here and not stays:
        return function(*args, **given)
    _check(function, args, tensors)
    if asked is not None:
        given["device"] = _CPU
    inner_args, inner_given = tree_map(_held, (args, given))
    found = function(*inner_args, **inner_given)
    if function is _aten.copy_.default:
        return args[0]
    if function is _aten._to_copy.default:
        return SecondTensor(found) if stays else found
    if not stays:
        return found
    found = tree_map(lambda one: SecondTensor(one) if isinstance(one, Tensor) else one, found)
    return return_and_correct_aliasing(function, args, given, found)


def _is_second(asked: Any) -> bool:
    """Whether a device is the second, which torch's own code takes for `meta`."""
    return torch.device(asked).type in (SECOND.type, "meta")


def _tensors(nested: Any) -> list[Tensor]:
    found: list[Tensor] = []
    tree_map(lambda one: found.append(one) if isinstance(one, Tensor) else None, nested)
    return found


def _held(one: Any) -> Any:
    return one.held if isinstance(one, SecondTensor) else one


def _check(function: Any, args: Sequence[Any], tensors: Sequence[Tensor]) -> None:
    """Refuse what CUDA would refuse."""
    if function in _MOVES:
        return
    if function in _INDEXED and isinstance(args[0], SecondTensor):
        tensors = [one for one in tensors if not any(one is index for index in args[1])]
    apart = [one for one in tensors if not isinstance(one, SecondTensor) and one.dim() > 0]
    if apart:
        raise RuntimeError(
            f"{function}: expected all tensors on one device, found {SECOND} and cpu {tuple(apart[0].shape)}"
        )


def _module() -> ModuleType:
    """What torch looks for when a device is named: `torch.privateuseone`."""
    found = ModuleType("torch.privateuseone")
    answers: Mapping[str, Callable[..., Any]] = {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "_is_in_bad_fork": lambda: False,
        "manual_seed_all": lambda _seed: None,
        "get_amp_supported_dtype": lambda: [torch.bfloat16, torch.float16],
    }
    vars(found).update(answers, default_generators=(torch.Generator(),))
    return found


@contextmanager
def _loading_here(loader: Any) -> Iterator[None]:
    """Let a class load onto the CPU, as it does: it begins with empty `meta` tensors of its own."""
    load = loader.from_pretrained.__func__

    def from_pretrained(cls: Any, *args: Any, **options: Any) -> Any:
        with _disable_current_modes():
            return load(cls, *args, **options)

    with patch.object(loader, "from_pretrained", classmethod(from_pretrained)):
        yield


@contextmanager
def second_device(*, float64: bool = False) -> Iterator[torch.device]:
    """Have the second device for a while.

    Args:
        float64: Whether it has numbers of 64 bits, as CUDA's devices do; Apple's and some of Intel's do not.
    """
    torch._register_device_module(SECOND.type, _module())
    _refused.update(() if float64 else (torch.float64, torch.complex128))
    float64_device.cache_clear()
    try:
        with _loading_here(ModelMixin), _loading_here(PreTrainedModel), _Places(), _Numbers():
            yield SECOND
    finally:
        _refused.clear()
        float64_device.cache_clear()
        delattr(torch, SECOND.type)
        sys.modules.pop(f"torch.{SECOND.type}")
