"""Adaptive first: was any attack written against the place that the erasure edits? Needs no torch.

    text encoder         tokens and embeddings through the erased encoder, concept inversion
    cross-attention      tokens of the prompt, through the patched keys and values
    other UNet layers    a loss on what the erased UNet predicts

An attack that never looks at the edited weights (luck, a search on the base's encoder, a file of prompts)
says how strong it is, not how robust the erasure is (Carlini et al., 2019; Tramer et al., 2020). Such a rate
is still reported, but marked: nobody tried what an attacker who knows the method would try first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field, model_validator

from .records import Record

PlaceName = Literal["text encoder", "cross-attention", "other UNet layers"]
NOT_ADAPTIVE = "robustness claim not adaptive"


class Adaptivity(Record):
    """Where the erasure edits the model, and what the attacks that were run go through."""

    edited: tuple[PlaceName, ...] = Field(min_length=1, description="places that the erasure edits")
    through: Mapping[str, tuple[PlaceName, ...]] = Field(
        description="per attack that was run, the places of the erased model that its search goes through"
    )
    candidates: tuple[str, ...] = Field(
        description="attacks that go through what no attack that was run goes through"
    )

    @model_validator(mode="after")
    def _candidates_are_needed(self) -> Self:
        if self.candidates and not self.missing:
            raise ValueError(
                f"{', '.join(self.candidates)} should be run, but an attack went through each edited place; "
                "expected none; do not edit a report by hand"
            )
        return self

    @property
    def missing(self) -> tuple[PlaceName, ...]:
        """Edited places that no attack went through."""
        reached = {place for places in self.through.values() for place in places}
        return tuple(place for place in self.edited if place not in reached)

    @property
    def adaptive(self) -> bool:
        """Whether some attack went through each edited place."""
        return not self.missing

    @property
    def flag(self) -> str:
        """What a reader must be told; "" for nothing."""
        if self.adaptive:
            return ""
        advice = f"run one of {', '.join(self.candidates)}" if self.candidates else "write one that does"
        return (
            f"{NOT_ADAPTIVE}: the erasure edits the {' and the '.join(self.missing)}, and no attack that was "
            f"run goes through there; {advice}"
        )
