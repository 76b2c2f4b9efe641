"""Fidelity as a report records it: how near pictures of what should stay are to the base's. Needs no torch.

Base and erased pipeline drew them from the same prompts and seeds. Two questions, each beside a level that
says what the figure is worth:

    agreement   mean cosine of the features of both pictures of a pair: 1 is the same picture.
                Beside it the base's own pictures of one prompt with two seeds: an erasure that changes
                nothing but the seed, so to speak, agrees no better
    KID         distance of the two sets (unbiased, 0 for the same distribution), pairs of one seed left out.
                Beside it the same between two halves of the base's own pictures: what chance gives
    FID         the same in the older unit, between halves of other seeds, so that base and erased pipeline
                are equally far where nothing changed. Biased for few pictures, so left out unless each half
                has five times as many as there are features

The features are those of a judge or of an extractor that was given; figures of two extractors have nothing in
common. Failed pictures are compared as they are: black ones agree with nothing.
"""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from .records import NotMeasured, Record

EVERYTHING = "all of these"
"""Name of the row over all sets together."""
LEAST_PICTURES = 20
"""Pairs of pictures below which no distance between sets is computed."""
LEAST_REFERENCE = 10
"""Pairs of the base's own pictures below which there is no level to compare with."""
FID_PICTURES_PER_FEATURE = 5
"""Pictures per feature that FID needs in a set: its authors ask for 10,000 with 2,048 features."""


class Figure(Record):
    """A figure with its 95 % interval over prompts."""

    value: float
    low: float
    high: float

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.low <= self.high:
            raise ValueError(
                f"the interval of {self.value} runs from {self.low} to {self.high}; expected the lower bound "
                "first; do not edit a report by hand"
            )
        return self

    def __str__(self) -> str:
        """Figure and interval: `0.981 (0.975 to 0.986)`."""
        return f"{self.value:.3g} ({self.low:.3g} to {self.high:.3g})"


class FidelityRow(Record):
    """One prompt set: the erased pipeline's pictures beside the base's."""

    name: str
    pictures: int = Field(ge=LEAST_PICTURES, description="pairs of one prompt and seed")
    prompts: int = Field(ge=2, description="different prompts among them")
    agreement: Figure = Field(description="mean cosine of the pairs' features; 1: the same pictures")
    other_seed: Figure | NotMeasured = Field(
        description="the same for pairs of the base's own pictures, of one prompt and two seeds"
    )
    kid: Figure = Field(description="squared MMD of the features, unbiased; 0: the same distribution")
    base_kid: Figure | NotMeasured = Field(
        description="the same between two halves of the base's own pictures: what chance gives"
    )
    fid: float | NotMeasured = Field(description="half of the base's pictures to the erased of other seeds")
    base_fid: float | NotMeasured = Field(description="the same half to the base's own of these other seeds")

    @model_validator(mode="after")
    def _in_range(self) -> Self:
        cosines = [self.agreement, *([] if isinstance(self.other_seed, str) else [self.other_seed])]
        if any(abs(bound) > 1 for one in cosines for bound in (one.value, one.low, one.high)):
            raise ValueError(
                f"the agreement of {self.name!r} is {self.agreement.value}; expected a cosine, -1 to 1; do "
                "not edit a report by hand"
            )
        if isinstance(self.fid, str) != isinstance(self.base_fid, str):
            raise ValueError(
                f"the FID of {self.name!r} is {self.fid} beside {self.base_fid} of the base itself; expected "
                "both or none, since one alone cannot be read; do not edit a report by hand"
            )
        return self


class Fidelity(Record):
    """What is left of the base's own pictures of what should stay."""

    extractor: str = Field(description="where the features come from")
    sha256: str = Field(description="digest of the extractor's weights")
    width: int = Field(ge=1, description="features per picture")
    rows: tuple[FidelityRow, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _enough_pictures(self) -> Self:
        for row in self.rows:
            needed = 2 * FID_PICTURES_PER_FEATURE * self.width
            if not isinstance(row.fid, str) and row.pictures < needed:
                raise ValueError(
                    f"a FID of {row.pictures} pictures stands in row {row.name!r}; expected {needed} or more "
                    f"for {self.width} features, since fewer measure themselves; draw more, or read KID"
                )
        return self

    def row(self, name: str) -> FidelityRow | None:
        """The row of one prompt set, or None if it had too few pictures."""
        return next((row for row in self.rows if row.name == name), None)
