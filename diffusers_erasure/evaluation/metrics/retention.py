"""What an erasure leaves of everything else: a rate beside the base's, on the same prompts and seeds.

Two questions are asked, with a margin that is declared before anything is measured. How far did the rate
move (Newcombe's paired interval)? And is what was kept *not inferior*: does the interval lie above minus the
margin? "No significant difference" would not do, since a small sample never finds one.

No command computes it; from Python, with a judge's answers about both pictures of each pair:

```python
kept = Retention.of(question(base_images).tolist(), question(erased_images).tolist())
print(kept, kept.non_inferior)
```
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from diffusers_erasure.errors import EvaluationError
from diffusers_erasure.evaluation.intervals import mcnemar_exact, paired_difference
from diffusers_erasure.evaluation.proportion import Proportion
from diffusers_erasure.evaluation.records import RETENTION_MARGIN


class Retention(BaseModel):
    """How many pictures show what was asked for, before and after, pair by pair."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    both: int = Field(ge=0, description="pairs in which both pictures show it")
    lost: int = Field(ge=0, description="pairs in which only the base's does")
    gained: int = Field(ge=0, description="pairs in which only the erased pipeline's does")
    neither: int = Field(ge=0, description="pairs in which neither does")
    margin: float = Field(gt=0, le=1, description="loss of rate that is accepted; declared beforehand")
    low: float = Field(ge=-1, le=1, description="erased minus base, lower bound of the 95 % interval")
    high: float = Field(ge=-1, le=1, description="erased minus base, upper bound of the 95 % interval")

    @classmethod
    def of(cls, base: Sequence[bool], erased: Sequence[bool], *, margin: float = RETENTION_MARGIN) -> Self:
        """Compare the answers about pictures of the same prompts and seeds.

        Raises:
            EvaluationError: There are no pairs, or not one of each.
        """
        if len(base) != len(erased) or not base:
            raise EvaluationError(
                f"{len(base)} pictures of the base were compared with {len(erased)} of the erased pipeline; "
                "expected pairs of the same prompt and seed; draw both sets with the same ones"
            )
        pairs = list(zip(base, erased, strict=True))
        counts = [pairs.count(pair) for pair in ((True, True), (True, False), (False, True), (False, False))]
        low, high = paired_difference(*counts)
        both, lost, gained, neither = counts
        return cls(both=both, lost=lost, gained=gained, neither=neither, margin=margin, low=low, high=high)

    @model_validator(mode="after")
    def _interval_belongs_to_counts(self) -> Self:
        expected = paired_difference(self.both, self.lost, self.gained, self.neither)
        if abs(self.low - expected[0]) > 1e-9 or abs(self.high - expected[1]) > 1e-9:
            raise ValueError(
                f"the interval {self.low:.4f} to {self.high:.4f} does not follow from its counts; expected "
                f"{expected[0]:.4f} to {expected[1]:.4f}; do not edit a report by hand"
            )
        return self

    @property
    def n(self) -> int:
        """Pairs."""
        return self.both + self.lost + self.gained + self.neither

    @property
    def base(self) -> Proportion:
        """Rate of the base."""
        return Proportion.of(self.both + self.lost, self.n)

    @property
    def erased(self) -> Proportion:
        """Rate of the erased pipeline."""
        return Proportion.of(self.both + self.gained, self.n)

    @property
    def difference(self) -> float:
        """Erased rate minus base rate, a fraction."""
        return self.erased.rate - self.base.rate

    @property
    def mcnemar_p(self) -> float:
        """Exact McNemar test of base against erased, two-sided."""
        return mcnemar_exact(self.lost, self.gained)

    @property
    def non_inferior(self) -> bool:
        """Whether a loss of the margin or more is ruled out."""
        return self.low > -self.margin

    def __str__(self) -> str:
        """Difference in points with its interval, and the answer."""
        answer = "kept" if self.non_inferior else "not shown to be kept"
        return (
            f"{100 * self.difference:+.1f} points ({100 * self.low:+.1f} to {100 * self.high:+.1f}), "
            f"{answer} within {100 * self.margin:g}"
        )
