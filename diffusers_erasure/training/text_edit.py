"""From pairs of prompts to one edit of every matrix that reads text: what all closed forms share.

`closed_form` has the algebra; here states are encoded, statistics gathered, the cheaper way to the solution
taken, and the solution turned into what an artifact stores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch

from diffusers_erasure.artifacts.edits import DeltaEdit, RightFactorEdit
from diffusers_erasure.artifacts.exact import exact_product
from diffusers_erasure.diffusion import DiffusionComponents, TextProjection
from diffusers_erasure.errors import ConfigError

from .closed_form import (
    MappingStatistics,
    Penalties,
    PriorStatistics,
    RightFactor,
    drift,
    residual,
    solve,
    solve_low_rank,
)
from .student import StoredType
from .text_states import AlignedPair, StateRows, state_rows
from .token_positions import SlotWeights, TokenPositions

EditForm = Literal["right_factor", "cross_attention"]


@dataclass(frozen=True, eq=False)
class TextEdit:
    """A solution, with what it was made from.

    Attributes:
        factor: X of W' = W (I + X).
        mapping: What is heard as something else.
        prior: What is heard as before.
        pairs: Different pairs of prompts.
        states: Pairs of states that they gave.
    """

    factor: RightFactor
    mapping: MappingStatistics
    prior: PriorStatistics
    pairs: int = 0
    states: int = 0

    @property
    def numbers(self) -> Mapping[str, float]:
        """What is worth showing of it."""
        return MappingProxyType(
            {
                "pairs": self.pairs,
                "mapped states": self.states,
                "retained states": self.prior.count,
                "rank": self.factor.rank,
                "condition": self.factor.condition,
                "missing change": residual(self.factor, self.mapping),
                "drift of retained": drift(self.factor, self.prior),
            }
        )


def solve_pairs(
    components: DiffusionComponents,
    pairs: Sequence[AlignedPair],
    positions: TokenPositions | SlotWeights,
    prior: PriorStatistics,
    penalties: Penalties,
    *,
    batch_size: int,
    progress: Callable[[int], None],
) -> TextEdit:
    """Encode the pairs and solve: by the rows themselves where they are few, else by their Gram matrix.

    Args:
        components: Whose text encoder.
        pairs: What `align_pairs` gave.
        positions: The same as there.
        prior: What stays.
        penalties: Its weight, and the ridge.
        batch_size: Prompts that are encoded at once.
        progress: Called with the number of pairs that are done.

    Raises:
        ConfigError: Both sides of every pair give the same states.
        TrainingError: The Gram matrix is singular.
    """
    blocks = state_rows(components, pairs, positions, batch_size=batch_size, progress=progress)
    mapping = MappingStatistics.empty(components.text_width)
    rows = sum(len(pair.positions) for pair in pairs)
    kept: list[StateRows] = []
    for block in blocks:
        if 2 * rows <= components.text_width:
            kept.append(block)
        mapping = mapping + MappingStatistics.of(block.source, block.target, block.weight, block.count)
    if mapping.energy == 0.0:
        raise ConfigError(
            f"mapping {pairs[0].source.text!r} to {pairs[0].target.text!r} and {len(pairs) - 1} more pairs "
            f"changes nothing: both sides have the same text states at the positions {positions!r}; they "
            f"must differ; choose another anchor"
        )
    if kept:
        few = StateRows.joined(kept)
        factor = solve_low_rank(few.source, few.target, few.weight, prior, penalties, count=few.count)
    else:
        factor = solve(mapping, prior, penalties)
    return TextEdit(factor, mapping, prior, len(pairs), rows)


def right_factor_edit(
    factor: RightFactor, projections: Sequence[TextProjection], stored: StoredType = "float32"
) -> RightFactorEdit:
    """X for all projections, as it is stored: as two exact thin matrices where that is smaller.

    Args:
        factor: The solution.
        projections: What it edits.
        stored: dtype of its tensors.
    """
    dtype = getattr(torch, stored)
    targets = tuple(projection.key for projection in projections)
    if factor.left is not None and factor.right is not None:
        return RightFactorEdit(left=factor.left.to(dtype), right=factor.right.to(dtype), targets=targets)
    return RightFactorEdit(factor=factor.dense.to(dtype), targets=targets)


def cross_attention_edit(
    factor: RightFactor, projections: Sequence[TextProjection], stored: StoredType = "float32"
) -> DeltaEdit:
    """W X for each projection: the same edit as a cross-attention patch, with a matrix for each layer.

    Args:
        factor: The solution.
        projections: What it edits.
        stored: dtype of its tensors.
    """
    matrix, dtype = factor.dense, getattr(torch, stored)
    return DeltaEdit(
        {
            projection.key: exact_product(projection.weight.detach().cpu(), matrix).to(dtype)
            for projection in projections
        }
    )
