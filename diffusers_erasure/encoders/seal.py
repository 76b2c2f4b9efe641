"""Seals: what the weights of a whole component have to be, for components that carry no base to compare with.

An artifact keeps its base and is verified against that. A whole robust encoder, and the components of a
pipeline that was saved erased, come alone: their fingerprint was written down when they were saved. The seal
holds it, hangs on the module as one plain attribute, and answers quickly as long as nothing moved.

Casting is no change of the erasure: weights agree if they are the sealed ones, or these rounded to fp16 or
bf16, in whatever dtype they are held.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from diffusers_erasure.artifacts.apply import AppliedErasure
from diffusers_erasure.artifacts.fingerprint import (
    ROUNDED_TYPES,
    QuickFingerprint,
    leaves,
    quick_fingerprint,
    root,
    rounded,
)
from diffusers_erasure.artifacts.offload import refuse_on_disk
from diffusers_erasure.artifacts.record import compare, record_of
from diffusers_erasure.artifacts.tensors import (
    TOKEN_TABLE,
    TORCH_TYPES,
    component_tensors,
    unwrapped,
    without_added_tokens,
)

from .checkpoint import common_dtype

SEAL_NAME = "erasure_seal"
STORED_TYPES = {dtype: name for name, dtype in TORCH_TYPES.items() if dtype.is_floating_point}


class SealRecord(BaseModel):
    """A seal as it is written to JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dtype: str = Field(pattern="^(F64|F32|F16|BF16)$", description="Dtype that the weights were saved in.")
    fingerprint: str = Field(pattern="^[0-9a-f]{64}$", description="Of the weights in that dtype.")
    rounded: dict[str, str] = Field(
        default={}, max_length=4, description="Of the same weights in half precision."
    )
    rows: int | None = Field(default=None, ge=1, le=10_000_000, description="Tokens that are sealed.")

    @classmethod
    def of(cls, module: nn.Module) -> Self:
        """The record of a module's weights, with what they become in half precision of another kind."""
        refuse_on_disk(module, type(module).__name__)
        rows = _vocabulary(module)
        tensors = without_added_tokens(component_tensors(module), rows)
        dtype = common_dtype(tensor for tensor in tensors.values() if tensor.is_floating_point())
        name = STORED_TYPES[dtype]
        rows = tensors[TOKEN_TABLE].shape[0] if TOKEN_TABLE in tensors else None
        return cls(
            dtype=name,
            fingerprint=root(leaves(tensors)),
            rounded={
                half: root(leaves(rounded(tensors, low)))
                for half, low in ROUNDED_TYPES.items()
                if half != name
            },
            rows=rows,
        )

    def agrees(self, tensors: Mapping[str, Tensor]) -> bool:
        """Whether these weights are the sealed ones, or the sealed ones rounded to a half precision."""
        own = without_added_tokens(tensors, self.rows)
        wanted = [(TORCH_TYPES[self.dtype], self.fingerprint)]
        wanted += [
            (ROUNDED_TYPES[name], value) for name, value in self.rounded.items() if name in ROUNDED_TYPES
        ]
        return any(
            _is_rounded(own, dtype) and root(leaves(rounded(own, dtype))) == value for dtype, value in wanted
        )


@dataclass
class ComponentSeal:
    """A seal on a module: the record, and what the weights looked like when they last agreed with it."""

    record: SealRecord
    erasures: tuple[AppliedErasure, ...] = ()
    quick: QuickFingerprint | None = field(default=None, repr=False)

    def __deepcopy__(self, memo: dict[int, object]) -> ComponentSeal:
        return ComponentSeal(self.record, self.erasures)

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "quick": None}

    def holds(self, module: nn.Module, *, thorough: bool = False) -> bool:
        """Whether the module still has the sealed weights; cheap unless something moved or `thorough`."""
        if not thorough and self.quick is not None and (self.quick.unchanged() or self.quick.only_moved()):
            return True
        refuse_on_disk(module, type(module).__name__)
        if not self.record.agrees(component_tensors(module)):
            return False
        self.confirm(module)
        return True

    def found(self, module: nn.Module) -> str:
        """Fingerprint that the module has now, for messages."""
        return root(leaves(without_added_tokens(component_tensors(module), self.record.rows)))

    def confirm(self, module: nn.Module) -> None:
        """Note how the module looks while its weights are known to be the sealed ones."""
        self.quick = quick_fingerprint(module)


def put_seal(
    module: nn.Module, record: SealRecord, erasures: tuple[AppliedErasure, ...] = ()
) -> ComponentSeal:
    """Hang a seal on a module, and say which erasures its weights hold."""
    seal = ComponentSeal(record, erasures)
    vars(module)[SEAL_NAME] = seal
    return seal


def seal_of(module: object) -> ComponentSeal | None:
    """The seal that hangs on a module, if any."""
    seal = vars(module).get(SEAL_NAME) if isinstance(module, nn.Module) else None
    return seal if isinstance(seal, ComponentSeal) else None


def weights_fault(module: nn.Module) -> str | None:
    """What is wrong with the weights of an erased module, by its record and its seal; None if nothing is.

    Every weight is compared: who asks is about to write a new fingerprint.
    """
    record = record_of(module)
    if record is not None:
        changed = compare(module, record).changed
        if changed:
            return f"{len(changed)} weights were changed, first {changed[0]}"
    sealed = module if record is None else unwrapped(record.base)
    seal = seal_of(sealed)
    if seal is None or seal.holds(sealed, thorough=True):
        return None
    return f"the weights do not have the fingerprint {seal.record.fingerprint[:16]}... any more"


def _vocabulary(module: nn.Module) -> int | None:
    """The vocabulary that a module was erased with, without tokens of textual inversion; None if unknown."""
    record, seal = record_of(module), seal_of(unwrapped(module))
    if record is not None:
        return record.rows
    return None if seal is None else seal.record.rows


def _is_rounded(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> bool:
    """Whether every floating value can be held in `dtype` exactly."""
    return all(
        tensor.dtype == dtype or torch.equal(tensor.to(dtype).to(tensor.dtype), tensor)
        for tensor in tensors.values()
        if tensor.is_floating_point()
    )
