"""A share of n with its 95 % interval: the only form in which a rate appears in a report."""

from __future__ import annotations

from collections.abc import Sequence
from math import isclose

from pydantic import BaseModel, ConfigDict, Field, model_validator

from .intervals import wilson_interval


class Proportion(BaseModel):
    """`k` of `n`, with the bounds of the Wilson 95 % interval as fractions."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    k: int = Field(ge=0, description="pictures that count")
    n: int = Field(ge=1, description="pictures planned")
    low: float = Field(ge=0, le=1, description="lower bound of the Wilson 95 % interval")
    high: float = Field(ge=0, le=1, description="upper bound of the Wilson 95 % interval")

    @classmethod
    def of(cls, k: int, n: int) -> Proportion:
        """The proportion of `k` in `n`, with its interval computed."""
        low, high = wilson_interval(k, n)
        return cls(k=k, n=n, low=low, high=high)

    @classmethod
    def pooled(cls, parts: Sequence[Proportion]) -> Proportion:
        """Several shares, at least one, counted together."""
        return cls.of(sum(part.k for part in parts), sum(part.n for part in parts))

    @model_validator(mode="after")
    def _interval_belongs_to_counts(self) -> Proportion:
        if self.k > self.n:
            raise ValueError(f"k is {self.k}, above n = {self.n}; expected k <= n; correct the counts")
        expected = wilson_interval(self.k, self.n)
        if not all(isclose(a, b, abs_tol=1e-9) for a, b in zip((self.low, self.high), expected, strict=True)):
            raise ValueError(
                f"the interval {self.low:.4f}-{self.high:.4f} does not belong to {self.k}/{self.n}; "
                f"expected {expected[0]:.4f}-{expected[1]:.4f}; do not edit a report by hand"
            )
        return self

    @property
    def rate(self) -> float:
        """The share, 0 to 1."""
        return self.k / self.n

    def __str__(self) -> str:
        """Counts, percent and interval: `30/142 = 21.1 % (15.2-28.6)`."""
        return f"{self.k}/{self.n} = {100 * self.rate:.1f} % ({100 * self.low:.1f}-{100 * self.high:.1f})"
