"""Least-squares edits of text projections: statistics, one factorisation, one matrix for all layers.

Cross-attention layer l reads text states e through W_l. To make it hear e^s where e^m is said, and to keep
what it hears of retained states e^k, closed-form methods (UCE, arXiv:2308.14761, equation 7; the first
stage of TRCE, arXiv:2503.07389) minimise over each W'_l

    sum_i w_i |W'_l e_i^m − W_l e_i^s|² + η sum_j |W'_l e_j^k − W_l e_j^k|² + λ |W'_l − W_l|²

Every term holds W_l as its left factor, so the minimiser is W'_l = W_l (I + X) with one X for all layers:

    X = D G⁻¹    with    D = sum_i w_i (e_i^s − e_i^m) e_i^mᵀ
                         G = sum_i w_i e_i^m e_i^mᵀ + η C + λ I    and    C = sum_j e_j^k e_j^kᵀ

Here sums over retained states become one matrix C, whatever their number, and statistics of different
prompts or concepts add up. All of it is float64 on the CPU: G is often so badly conditioned that float32
fails.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusers_erasure.errors import TrainingError

logger = logging.getLogger(__name__)

CONDITION_LIMIT = 1e12
"""Above this, float64 leaves fewer than four good digits in X."""
_POWER_STEPS = 24


@dataclass(frozen=True, eq=False)
class MappingStatistics:
    """What is to be heard as something else: sufficient statistics, additive.

    Attributes:
        shift: D, the sum of w (e^s − e^m) e^mᵀ, `(width, width)` float64.
        gram: The sum of w e^m e^mᵀ, `(width, width)` float64.
        energy: The sum of w |e^s − e^m|², what the residual is measured by.
        count: What a mean divides by: the sum of w, unless the objective says otherwise.
    """

    shift: Tensor
    gram: Tensor
    energy: float
    count: float

    @classmethod
    def of(
        cls, source: Tensor, target: Tensor, weight: Tensor | None = None, count: float | None = None
    ) -> MappingStatistics:
        """Statistics of some states.

        Args:
            source: e^m, the states as they are, `(rows, width)`.
            target: e^s, what they are to mean, `(rows, width)`.
            weight: w, how often each counts, `(rows,)`; once unless given.
            count: What a mean divides by; the sum of w unless given.
        """
        source, target = _double(source), _double(target)
        weight = torch.ones(len(source), dtype=torch.float64) if weight is None else _double(weight)
        difference = target - source
        weighted = source * weight[:, None]
        return cls(
            shift=difference.T @ weighted,
            gram=source.T @ weighted,
            energy=float((weight * difference.square().sum(1)).sum()),
            count=float(weight.sum()) if count is None else count,
        )

    @classmethod
    def empty(cls, width: int) -> MappingStatistics:
        """Statistics of nothing."""
        zeros = torch.zeros(width, width, dtype=torch.float64)
        return cls(shift=zeros, gram=zeros, energy=0.0, count=0.0)

    def __add__(self, other: MappingStatistics) -> MappingStatistics:
        return MappingStatistics(
            self.shift + other.shift,
            self.gram + other.gram,
            self.energy + other.energy,
            self.count + other.count,
        )


@dataclass(frozen=True, eq=False)
class PriorStatistics:
    """What is to be heard as before.

    Attributes:
        gram: C, the sum of e^k e^kᵀ, `(width, width)` float64.
        count: How many states it sums over.
    """

    gram: Tensor
    count: float

    @classmethod
    def of(cls, states: Tensor) -> PriorStatistics:
        """Statistics of some states, `(rows, width)`."""
        states = _double(states)
        return cls(states.T @ states, float(len(states)))

    @classmethod
    def empty(cls, width: int) -> PriorStatistics:
        """Statistics of nothing."""
        return cls(torch.zeros(width, width, dtype=torch.float64), 0.0)

    def __add__(self, other: PriorStatistics) -> PriorStatistics:
        return PriorStatistics(self.gram + other.gram, self.count + other.count)

    def __sub__(self, other: PriorStatistics) -> PriorStatistics:
        return PriorStatistics(self.gram - other.gram, self.count - other.count)


@dataclass(frozen=True)
class Penalties:
    """What the edit pays for leaving the base.

    Attributes:
        prior_weight: η, for changing what is heard of the retained states.
        ridge: Part of λ that scales with the statistics: λ = ridge × mean of the diagonal of G without λ.
        absolute_ridge: Part of λ that is taken as it is.
        mean: Whether both sums are means over their states, so that η does not depend on how many there are.
    """

    prior_weight: float = 1.0
    ridge: float = 1e-6
    absolute_ridge: float = 0.0
    mean: bool = True


@dataclass(frozen=True, eq=False)
class RightFactor:
    """X of W' = W (I + X), dense or as two thin matrices, float64.

    Attributes:
        matrix: X, `(width, width)`; None where the two thin ones stand for it.
        left: `(width, rank)` with X = left @ right.
        right: `(rank, width)`.
        condition: Estimated condition number of what was factorised.
    """

    matrix: Tensor | None
    left: Tensor | None
    right: Tensor | None
    condition: float

    @property
    def dense(self) -> Tensor:
        """X as one matrix, `(width, width)`."""
        if self.left is not None and self.right is not None:
            return self.left @ self.right
        assert self.matrix is not None
        return self.matrix

    @property
    def rank(self) -> int:
        """Bound on the rank: the inner size of the thin matrices, or the width."""
        if self.left is not None:
            return self.left.shape[1]
        assert self.matrix is not None
        return self.matrix.shape[0]


def solve(mapping: MappingStatistics, prior: PriorStatistics, penalties: Penalties) -> RightFactor:
    """X = D G⁻¹ by one Cholesky factorisation of G.

    Raises:
        TrainingError: There is nothing to map, or G is singular.
    """
    gram, shift = _scaled(mapping, penalties)
    normal = gram + _prior(prior, penalties)
    normal = normal + _ridge(normal, penalties) * torch.eye(len(normal), dtype=torch.float64)
    factor = _cholesky(normal)
    condition = _condition(normal, factor)
    return RightFactor(torch.cholesky_solve(shift.T, factor).T.contiguous(), None, None, condition)


def solve_low_rank(
    source: Tensor,
    target: Tensor,
    weight: Tensor,
    prior: PriorStatistics,
    penalties: Penalties,
    *,
    count: float | None = None,
) -> RightFactor:
    """The same X from the rows themselves, as `(width, rows)` times `(rows, width)` (Woodbury).

    With H = η C + λ I, B = E H⁻¹ and K = diag(n / w) + E Bᵀ: X = (E^s − E)ᵀ K⁻¹ B. Rows that map to
    themselves belong to H; each of the others adds one to the rank. The right factor is made orthonormal,
    so that storing both in float32 costs no more than storing X.

    Args:
        source: E, the states as they are, `(rows, width)`.
        target: E^s, what they are to mean, `(rows, width)`.
        weight: w, `(rows,)`.
        prior: What stays.
        penalties: η and λ.
        count: n, what a mean divides by; the sum of w unless given.
    """
    source, target, weight = _double(source), _double(target), _double(weight)
    total = _check_count(float(weight.sum()) if count is None else count) if penalties.mean else 1.0
    moved = (source != target).any(1)
    kept = source[~moved]
    base = _prior(prior, penalties) + kept.T @ (kept * (weight[~moved] / total)[:, None])
    everything = base + source[moved].T @ (source[moved] * (weight[moved] / total)[:, None])
    base = base + _ridge(everything, penalties) * torch.eye(source.shape[1], dtype=torch.float64)
    factor = _cholesky(base)
    source, difference, weight = source[moved], (target - source)[moved], weight[moved]
    right = torch.cholesky_solve(source.T, factor).T
    inner = torch.diag(total / weight) + source @ right.T
    inner = (inner + inner.T) / 2
    left = torch.cholesky_solve(difference, _cholesky(inner)).T
    basis, mixing = torch.linalg.qr(right.T)
    return RightFactor(None, (left @ mixing.T).contiguous(), basis.T.contiguous(), _condition(base, factor))


def residual(factor: RightFactor, mapping: MappingStatistics) -> float:
    """Share of the wanted change that is missing: |X e^m − (e^s − e^m)| / |e^s − e^m|, root mean square."""
    if mapping.energy == 0.0:
        return 0.0
    moved = factor.dense
    square = (moved @ mapping.gram * moved).sum() - 2 * (moved * mapping.shift).sum() + mapping.energy
    return float((square.clamp(min=0.0) / mapping.energy).sqrt())


def drift(factor: RightFactor, prior: PriorStatistics) -> float:
    """Unwanted change of the retained states: |X e^k| / |e^k|, root mean square."""
    size = float(prior.gram.trace())
    if size == 0.0:
        return 0.0
    moved = factor.dense
    return float(((moved @ prior.gram * moved).sum().clamp(min=0.0) / size).sqrt())


def _double(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float64)


def _check_count(count: float) -> float:
    if count <= 0.0:
        raise TrainingError(
            f"the pairs to map weigh {count:g} in all; a positive weight is needed; give at least one pair"
        )
    return count


def _scaled(mapping: MappingStatistics, penalties: Penalties) -> tuple[Tensor, Tensor]:
    count = _check_count(mapping.count)
    scale = 1.0 / count if penalties.mean else 1.0
    return mapping.gram * scale, mapping.shift * scale


def _prior(prior: PriorStatistics, penalties: Penalties) -> Tensor:
    """η C, over the number of states where means are asked for."""
    scale = 1.0 / prior.count if penalties.mean and prior.count else 1.0
    return prior.gram * (scale * penalties.prior_weight)


def _ridge(normal: Tensor, penalties: Penalties) -> float:
    """λ for a matrix without it."""
    return penalties.ridge * float(normal.diagonal().mean()) + penalties.absolute_ridge


def _cholesky(matrix: Tensor) -> Tensor:
    factor: Tensor
    factor, failed = torch.linalg.cholesky_ex(matrix)
    pivots = factor.diagonal().square()
    # Rounding can turn a pivot of zero into a tiny positive one; the negation also catches NaN.
    if int(failed) or not bool(pivots.min() > 4 * torch.finfo(torch.float64).eps * pivots.max()):
        raise TrainingError(
            f"the {len(matrix)} x {len(matrix)} Gram matrix is not positive definite in float64; it must be, "
            f"for the solution to be unique; raise ridge (1e-6 or more) or add retain prompts"
        )
    return factor


def _condition(matrix: Tensor, factor: Tensor) -> float:
    """Condition number by power iteration on the matrix and its inverse; warns if it is hopeless."""
    start = torch.randn(len(matrix), 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    largest, smallest = start, start
    for _ in range(_POWER_STEPS):
        largest = matrix @ (largest / largest.norm())
        smallest = torch.cholesky_solve(smallest / smallest.norm(), factor)
    condition = float(largest.norm() * smallest.norm())
    if condition > CONDITION_LIMIT:
        logger.warning(
            "the Gram matrix has a condition number of about %.1e, above %.0e: the edit may be inaccurate; "
            "raise ridge or add retain prompts",
            condition,
            CONDITION_LIMIT,
        )
    return condition
