"""Edits of weights, and their arithmetic.

Three forms, all of them changes of plain weights:

    DeltaEdit         W' = W + s D         any tensors; D has the shape of W
    RightFactorEdit   W' = W (I + s X)     one d x d matrix for many projections of the same input
    WholeEdit         W' = W + s (V - W)   the weights V themselves; s = 1 gives V bit for bit

A right factor is what the closed forms find (UCE, arXiv:2308.14761; first stage of TRCE, arXiv:2503.07389):
all keys and values of the cross-attention read the same text states, so one matrix for the text states stands
for all layers.

Several edits add up: W' = W + sum of the single changes, each taken at the base. Everything is computed in
float64 and rounded once. W X has the same bits on every machine (`exact`), so fingerprints of erased weights
hold everywhere. Two thin matrices are multiplied one after the other, which costs less than X itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from diffusers_erasure.diffusion.precision import float64_device
from diffusers_erasure.errors import ArtifactMismatchError, ConfigError

from .exact import Slices, exact_product, product, sliced

StoredForm: TypeAlias = Literal["delta", "right_factor", "whole"]


@dataclass(frozen=True, eq=False)
class DeltaEdit:
    """Differences to the base, one tensor per changed weight.

    Attributes:
        deltas: D by weight name, as in the component's `state_dict()`; each with the shape of its weight.
    """

    deltas: Mapping[str, Tensor]
    form: StoredForm = "delta"

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the weights that change."""
        return tuple(self.deltas)

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """What is stored."""
        return self.deltas

    def change(self, name: str, weight: Tensor) -> Tensor:
        """D for one weight, float64, in the shape of `weight`."""
        return _rows_like(self.deltas[name].to(weight.device, torch.float64), weight)


@dataclass(frozen=True, eq=False)
class RightFactorEdit:
    """One matrix X for all targets: W' = W (I + s X).

    Attributes:
        factor: X, `(d, d)`; or give both of the next two.
        left: `(d, r)` with X = left @ right.
        right: `(r, d)`.
        targets: Names of the edited weights, each `(out, d)`.
    """

    factor: Tensor | None = None
    targets: tuple[str, ...] = ()
    left: Tensor | None = None
    right: Tensor | None = None
    form: StoredForm = "right_factor"

    def __post_init__(self) -> None:
        if (self.factor is None) == (self.left is None or self.right is None):
            raise ConfigError(
                "a right-factor edit needs `factor`, or `left` and `right`; found both or neither; give "
                "exactly one form"
            )
        shapes = [tuple(tensor.shape) for tensor in self.tensors.values()]
        if any(len(shape) != 2 for shape in shapes) or shapes[0] != shapes[-1][::-1]:
            raise ConfigError(
                f"a right factor is (d, d), or (d, r) and (r, d); found shapes {shapes}; transpose or fix"
            )
        if not self.targets:
            raise ConfigError(
                "a right-factor edit names no targets; expected the weights to edit; pass targets=(...)"
            )

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """What is stored."""
        named = {"factor": self.factor, "left": self.left, "right": self.right}
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    @property
    def width(self) -> int:
        """d, the width of the text states."""
        return next(iter(self.tensors.values())).shape[0]

    @cached_property
    def matrix(self) -> Tensor:
        """X `(d, d)` in float64."""
        if self.left is not None and self.right is not None:
            return exact_product(self.left, self.right)
        assert self.factor is not None
        return self.factor.to(torch.float64)

    @cached_property
    def _slices(self) -> tuple[Slices, ...]:
        """What a weight is multiplied by, one after the other, cut once for all layers."""
        return tuple(sliced(tensor, dim=0) for tensor in self.tensors.values())

    def change(self, name: str, weight: Tensor) -> Tensor:  # noqa: ARG002 (one for all)
        """W X for one weight `(out, d)`, float64; `name` is one of the targets."""
        found = weight
        for slices in self._slices:
            found = product(sliced(found, dim=1), slices.to(weight.device))
        return found


@dataclass(frozen=True, eq=False)
class WholeEdit:
    """The erased weights themselves, for a component in which everything changed.

    Attributes:
        weights: V by weight name, as in the component's `state_dict()`.
    """

    weights: Mapping[str, Tensor]
    form: StoredForm = "whole"

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the weights that change."""
        return tuple(self.weights)

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """What is stored."""
        return self.weights

    def change(self, name: str, weight: Tensor) -> Tensor:
        """V - W for one weight, float64."""
        target = self.weights[name].to(weight.device, torch.float64)
        return _rows_like(
            target - weight[: target.shape[0]].to(torch.float64) if weight.ndim else target - weight, weight
        )


Edit: TypeAlias = DeltaEdit | RightFactorEdit | WholeEdit


def apply_edit(weight: Tensor, terms: Sequence[tuple[Edit, float]], *, name: str) -> Tensor:
    """The weight after all edits: W + sum of s * change(W), computed in float64, in the dtype of `weight`.

    Terms are summed in the order given; a term of scale 0 is left out, so that all scales 0 give W bit for
    bit.

    Args:
        weight: W of the base model; never changed.
        terms: Edits that touch this weight, with their scales.
        name: Name of the weight.
    """
    active = [(edit, scale) for edit, scale in terms if scale != 0.0]
    if not active:
        return weight.detach().clone()
    if len(active) == 1 and active[0][1] == 1.0 and isinstance(active[0][0], WholeEdit):
        stored = active[0][0].weights[name]
        if stored.shape == weight.shape:
            return stored.to(weight.device, weight.dtype).clone()
    home = weight.detach()
    start = home.to(float64_device(home.device))
    result = start.to(torch.float64)
    for edit, scale in active:
        result = result + edit.change(name, start) * scale
    return result.to(weight.dtype).to(weight.device)


def check_values(tensors: Mapping[str, Tensor], *, origin: str, whole: bool = False) -> None:
    """Refuse an edit that holds nothing, NaN, infinities or only zeros.

    Args:
        tensors: What is, or shall be, stored.
        origin: File or object the tensors belong to, for messages.
        whole: The tensors are whole weights, of which vectors (biases) may be zero.
    """
    if not tensors:
        raise ArtifactMismatchError(
            f"{origin} holds no tensor; expected at least one; train or download it again"
        )
    for name, tensor in tensors.items():
        fault = _value_fault(tensor, zero_allowed=whole and tensor.ndim < 2)
        if fault:
            raise ArtifactMismatchError(
                f"tensor {name!r} of {origin} {fault}; expected finite values that are not all zero; the "
                "erasure is broken, train it again"
            )


def _value_fault(tensor: Tensor, *, zero_allowed: bool) -> str | None:
    if not tensor.is_floating_point():
        return f"has the dtype {tensor.dtype}"
    if tensor.numel() == 0:
        return f"is empty, shape {tuple(tensor.shape)}"
    finite = torch.isfinite(tensor)
    if not bool(finite.all()):
        return f"has {int((~finite).sum())} values that are NaN or infinite"
    if not zero_allowed and not bool(tensor.any()):
        return "is all zero"
    return None


def _rows_like(change: Tensor, weight: Tensor) -> Tensor:
    """Pad with zero rows where a token was added to the embedding table since."""
    extra = weight.shape[0] - change.shape[0] if weight.ndim else 0
    if extra <= 0:
        return change
    return torch.cat([change, change.new_zeros(extra, *change.shape[1:])])
