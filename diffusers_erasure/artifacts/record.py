"""What an edited module knows of itself: its base, what was put on it, and what its weights must be.

The record is one plain attribute of the module. Nothing of it takes part in `forward`, in hooks or in
`state_dict()`, so saving the module writes stock files. Copies of the module (`deepcopy`) keep the record and
share the base.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from .artifact import Artifact
from .copying import RECORD_NAME
from .edits import Edit, apply_edit
from .fingerprint import ROUNDED_TYPES, QuickFingerprint, leaves, root
from .offload import refuse_on_disk
from .tensors import TOKEN_TABLE, component_tensors, unwrapped, without_added_tokens

LEDGER_NAME = "erasure_ledger"


@dataclass(frozen=True, eq=False)
class Applied:
    """One erasure on one component."""

    name: str
    artifact: Artifact
    scale: float
    transfer: bool


@dataclass(eq=False)
class ComponentRecord:
    """The bookkeeping of one edited component.

    Attributes:
        component: Its name in the pipeline.
        base: The module as the caller gave it; never changed.
        base_leaves: sha256 of each of the base's tensors when the first erasure came.
        erasures: What was applied; the weights are the base plus the sum of their changes.
        expected: sha256 of each tensor of base plus changes, in the base's dtype, as far as compared.
        guard: What the weights looked like when they were last found to be right.
    """

    component: str
    base: nn.Module
    base_leaves: Mapping[str, str]
    erasures: tuple[Applied, ...]
    expected: Mapping[str, str] = field(default_factory=dict)
    guard: QuickFingerprint | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "ComponentRecord":
        return replace(self, guard=None)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "guard": None}

    @property
    def rows(self) -> int | None:
        """How many rows of the token table are compared, if it has one: the vocabulary of the artifacts.

        Rows behind those are textual inversion's, whose tokens come and go, also those that the base had.
        """
        table = component_tensors(self.base).get(TOKEN_TABLE)
        if table is None:
            return None
        sizes = [a.artifact.spec(self.component).config.get("vocab_size") for a in self.erasures]
        known = [size for size in sizes if isinstance(size, int)]
        return min(table.shape[0], max(known, default=table.shape[0]))

    def comparable(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights of this component without the rows that are not compared."""
        return without_added_tokens(tensors, self.rows)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the erasures on this component."""
        return tuple(applied.name for applied in self.erasures)

    def edit_of(self, applied: Applied) -> Edit:
        """An erasure's edit of this component."""
        return applied.artifact.edits[self.component]

    def touched(self) -> set[str]:
        """Canonical names of all weights that some erasure edits."""
        return {name for applied in self.erasures for name in self.edit_of(applied).targets}

    def weights(self, names: set[str]) -> dict[str, Tensor]:
        """The weights as they must be, in the base's dtype and on its device.

        Changes are summed in the order of the artifacts' digests, so that the order of loading does not
        matter.
        """
        base = component_tensors(self.base)
        ordered = sorted(self.erasures, key=lambda applied: (applied.artifact.digest, applied.name))
        composed = {}
        for name in sorted(names):
            terms = [(self.edit_of(a), a.scale) for a in ordered if name in self.edit_of(a).targets]
            composed[name] = apply_edit(base[name], terms, name=name) if terms else base[name].detach()
        return composed


@dataclass(frozen=True)
class Comparison:
    """How a module's weights compare with what they must be.

    Attributes:
        expected: Fingerprint that they must have (in the base's dtype).
        found: Fingerprint that they have.
        changed: Names of weights that are not what they must be, nor a rounding of it.
        rounded: Whether some are right after a change of dtype.
        as_base: Whether all edited weights are those of the base.
    """

    expected: str
    found: str
    changed: tuple[str, ...]
    rounded: bool
    as_base: bool


def record_of(module: nn.Module | None) -> ComponentRecord | None:
    """The record of a module, if it was edited here."""
    if not isinstance(module, nn.Module):
        return None
    record = vars(unwrapped(module)).get(RECORD_NAME)
    return record if isinstance(record, ComponentRecord) else None


def compare(module: nn.Module, record: ComponentRecord) -> Comparison:
    """Compare every weight of an edited module with base plus changes.

    A weight is right if it is bit for bit what was composed, or that in the dtype the module has now, or that
    after a round trip through fp16 or bf16.

    Raises:
        ErasureNotActiveError: The weights are offloaded to disk.
    """
    refuse_on_disk(module, record.component)
    tensors = record.comparable(component_tensors(module))
    found = leaves(tensors)
    named = set(record.expected)
    unequal = {name for name in named & set(found) if found[name] != record.expected[name]}
    changed = (set(found) ^ named) | _base_changed(record, unequal)
    suspects = unequal - changed
    wanted = record.comparable(record.weights(suspects))
    changed |= {name for name in suspects if not _is_rounding(tensors[name], wanted[name])}
    base = record.comparable(component_tensors(record.base))
    touched = record.touched() & set(tensors) & set(base)
    return Comparison(
        expected=root(record.expected),
        found=root(found),
        changed=tuple(sorted(changed)),
        rounded=bool(suspects - changed),
        as_base=bool(touched) and all(_is_rounding(tensors[name], base[name]) for name in touched),
    )


def _base_changed(record: ComponentRecord, names: set[str]) -> set[str]:
    """Names of weights whose base was itself edited in place since."""
    base = component_tensors(record.base)
    present = {name: base[name] for name in names if name in base}
    return {name for name, digest in leaves(present).items() if digest != record.base_leaves[name]}


def _is_rounding(tensor: Tensor, wanted: Tensor) -> bool:
    """Whether a tensor is another in its own dtype, directly or after a round trip through half precision."""
    if tensor.shape != wanted.shape:
        return False
    target = wanted.detach().to(tensor.device)
    if torch.equal(tensor.detach(), target.to(tensor.dtype)):
        return True
    return any(
        torch.equal(tensor.detach(), target.to(low).to(tensor.dtype)) for low in ROUNDED_TYPES.values()
    )
