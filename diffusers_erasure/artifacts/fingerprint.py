"""Fingerprints of weights: exact ones over every byte, and a quick one for each call.

The fingerprint of a component is a sha256 over the sorted list of its tensors' sha256 (a leaf each, over
name, dtype, shape and bytes), so that changing a few tensors costs a few leaves, and the leaves can be
computed side by side.

The quick fingerprint looks at what a change can hardly avoid touching: which layers and tensor objects there
are, whether a layer was given another `forward`, where the data lies, version counters, and 64 values each.
Version counters miss edits through `.data`, and tensors made under `torch.inference_mode()` have none; the
values notice dense edits. It costs about a millisecond for a text encoder of 123 M parameters and never
allows what it is unsure of: it only says whether the full comparison is needed.
"""

import hashlib
import os
import weakref
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from diffusers_erasure.errors import ErasureNotActiveError

from .tensors import component_tensors, foreign_forward, without_added_tokens

SAMPLES_PER_TENSOR = 64
ROUNDED_TYPES = {"F16": torch.float16, "BF16": torch.bfloat16}


def leaf(name: str, tensor: Tensor) -> str:
    """sha256 of one tensor: its name, dtype, shape and bytes."""
    if tensor.is_meta:
        raise ErasureNotActiveError(
            f"the weight {name!r} has no values (it is on the meta device); expected loaded weights; call "
            "pipe.remove_all_hooks() or load the pipeline again"
        )
    plain = tensor.detach().to("cpu").contiguous()
    digest = hashlib.sha256(
        f"{name}\0{str(plain.dtype).removeprefix('torch.')}\0{tuple(plain.shape)}\0".encode()
    )
    digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def leaves(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Name -> sha256 of each tensor; computed in a few threads, since hashing leaves the interpreter free."""
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        digests = pool.map(lambda name: leaf(name, tensors[name]), tensors)
        return dict(zip(tensors, digests, strict=True))


def root(named_leaves: Mapping[str, str]) -> str:
    """The fingerprint of a set of leaves."""
    lines = "\n".join(f"{name} {digest}" for name, digest in sorted(named_leaves.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def fingerprint(module: nn.Module, *, rows: int | None = None) -> str:
    """sha256 over all weights of a component, by name, dtype, shape and bytes.

    Args:
        module: Text encoder or UNet; names of wrappers (LoRA, offloading, versions) do not count.
        rows: Length of the vocabulary to compare, where tokens may have been added since.
    """
    return root(leaves(without_added_tokens(component_tensors(module), rows)))


@dataclass(frozen=True, eq=False)
class _Rounded(Mapping[str, Tensor]):
    """Tensors in another dtype, each cast when it is asked for: a whole component needs much memory."""

    tensors: Mapping[str, Tensor]
    dtype: torch.dtype

    def __getitem__(self, name: str) -> Tensor:
        tensor = self.tensors[name]
        return tensor.to(self.dtype) if tensor.is_floating_point() else tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def rounded(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> Mapping[str, Tensor]:
    """All floating point tensors in another dtype, each cast when it is asked for."""
    return _Rounded(tensors, dtype)


@dataclass(frozen=True)
class _Slot:
    """Where a weight hangs, which object it was, and what a change moves."""

    holder: Mapping[str, Tensor | None]
    key: str
    tensor: Tensor
    address: int
    version: int
    dtype: torch.dtype


@dataclass
class QuickFingerprint:
    """What the weights of one component looked like when they were last known to be right.

    It hangs on the component (in its record or seal), so it holds that only weakly: a cycle would keep the
    weights in memory until the garbage collector comes by.
    """

    layers: list[tuple[dict[str, nn.Module | None], str, nn.Module | None]]
    forwards: list[tuple[weakref.ref[nn.Module], object]]
    slots: list[_Slot]
    views: list[list[Tensor]]
    values: list[Tensor]

    @classmethod
    def of(cls, module: nn.Module) -> Self:
        """Take the quick fingerprint of a module's parameters."""
        slots = [_slot(layer._parameters, key) for layer in module.modules() for key in layer._parameters]
        kept = [slot for slot in slots if slot is not None]
        views = _sample_views([slot.tensor for slot in kept])
        layers = [(m._modules, key, child) for m in module.modules() for key, child in m._modules.items()]
        forwards = [(weakref.ref(layer), foreign_forward(layer)) for layer in module.modules()]
        return cls(layers, forwards, kept, views, [torch.cat(group).clone() for group in views])

    def unchanged(self) -> bool:
        """Whether nothing has moved or changed since; False means: compare in full."""
        if not self._same_objects() or any(slot.tensor.data_ptr() != slot.address for slot in self.slots):
            return False
        return all(map(_same, self.views, self.values))

    def only_moved(self) -> bool:
        """Whether the same parameters merely lie elsewhere (offloading, `.to(device)`), samples equal."""
        if not self._same_objects():
            return False
        views = _sample_views([slot.tensor for slot in self.slots])
        samples = [torch.cat(group) for group in views]
        return len(samples) == len(self.values) and all(
            new.shape == old.shape and torch.equal(new.to(old.device), old)
            for new, old in zip(samples, self.values, strict=True)
        )

    def _same_objects(self) -> bool:
        """Whether layers, what they compute with, and parameters are the same, at one version and dtype."""
        if any(children.get(key) is not child for children, key, child in self.layers):
            return False
        for held, forward in self.forwards:
            layer = held()
            if layer is None or foreign_forward(layer) is not forward:
                return False
        for slot in self.slots:
            tensor = slot.holder.get(slot.key)
            if tensor is not slot.tensor or tensor.dtype is not slot.dtype:
                return False
            if _version(tensor) != slot.version:
                return False
        return True


def quick_fingerprint(module: nn.Module) -> QuickFingerprint:
    """The cheap fingerprint of a component, for `unchanged()` before each call."""
    return QuickFingerprint.of(module)


def _slot(holder: Mapping[str, Tensor | None], key: str) -> _Slot | None:
    tensor = holder[key]
    if tensor is None:
        return None
    return _Slot(holder, key, tensor, tensor.data_ptr(), _version(tensor), tensor.dtype)


def _version(tensor: Tensor) -> int:
    """How often it was changed in place; -1 where torch does not count."""
    return -1 if tensor.is_inference() else tensor._version


def _same(views: list[Tensor], values: Tensor) -> bool:
    return torch.equal(torch.cat(views), values)


def _sample_views(tensors: list[Tensor]) -> list[list[Tensor]]:
    """Windows onto about 64 values of each tensor, by dtype and device; no value is copied."""
    groups: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for tensor in tensors:
        if tensor.is_meta or tensor.numel() == 0:
            continue
        flat = _in_memory_order(tensor.detach())
        view = flat[:: max(1, flat.numel() // SAMPLES_PER_TENSOR)]
        groups.setdefault((tensor.dtype, tensor.device), []).append(view)
    return list(groups.values())


def _in_memory_order(tensor: Tensor) -> Tensor:
    """The values in a row as they lie, so that it is a view; of one with gaps, those along one dimension."""
    by_stride = sorted(range(tensor.ndim), key=tensor.stride, reverse=True)
    ordered = tensor.permute(by_stride)
    if ordered.is_contiguous():
        return ordered.view(-1)
    longest = max(range(tensor.ndim), key=tensor.shape.__getitem__)
    return tensor[tuple(slice(None) if dim == longest else 0 for dim in range(tensor.ndim))]
