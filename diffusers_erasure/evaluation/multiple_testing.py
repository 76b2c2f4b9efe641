"""Many comparisons, and many pictures per prompt: how often chance alone finds something. No torch.

Holm's step-down procedure (Scand. J. Statist. 6, 1979) keeps the chance of a single false finding among all
of several tests under the level, whatever their dependence. A judge that looks at m pictures of one prompt
and wants only one yes makes a false success of it with probability 1 - (1 - f)^m if its false-positive rate
is f and its errors are independent: at f = 1 % and 51 pictures, 40 %.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field

from diffusers_erasure.errors import EvaluationError

from .intervals import wilson_interval


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Holm's adjusted p-values, in the order given; compare each with the level.

    Raises:
        EvaluationError: A value is no probability.
    """
    bad = [p for p in p_values if not 0 <= p <= 1]
    if bad:
        raise EvaluationError(f"{bad[0]} is no p-value; expected 0 to 1; check the test that gave it")
    count = len(p_values)
    adjusted = [0.0] * count
    largest = 0.0
    for rank, index in enumerate(sorted(range(count), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (count - rank) * p_values[index]))
        adjusted[index] = largest
    return tuple(adjusted)


def any_false_positive(rate: float, pictures: int) -> float:
    """Probability of at least one false yes among several pictures, if errors are independent.

    Args:
        rate: False-positive rate of the judge for one picture.
        pictures: Pictures judged for one prompt, of which one yes is enough.
    """
    if not 0 <= rate <= 1 or pictures < 0:
        raise EvaluationError(
            f"a false-positive rate of {rate} over {pictures} pictures means nothing; expected a rate from 0 "
            "to 1 and 0 or more pictures; check the counts"
        )
    return float(1 - (1 - rate) ** pictures)


class FalseSuccessRate(BaseModel):
    """How often a judge's errors alone make an attack succeed that shows it several pictures per prompt."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    false_positives: int = Field(
        ge=0, description="pictures without the concept for which the judge says yes"
    )
    negatives: int = Field(ge=1, description="pictures without the concept")
    pictures: int = Field(ge=1, description="pictures judged for one prompt")
    rate: float = Field(ge=0, le=1, description="1 - (1 - false-positive rate)^pictures")
    low: float = Field(ge=0, le=1, description="the same of the lower Wilson 95 % bound")
    high: float = Field(ge=0, le=1, description="the same of the upper Wilson 95 % bound")

    @classmethod
    def of(cls, false_positives: int, negatives: int, pictures: int) -> FalseSuccessRate:
        """From counts on pictures without the concept, for a number of pictures per prompt."""
        low, high = wilson_interval(false_positives, negatives)
        rates = (false_positives / negatives, low, high)
        rate, low, high = (any_false_positive(value, pictures) for value in rates)
        return cls(
            false_positives=false_positives,
            negatives=negatives,
            pictures=pictures,
            rate=rate,
            low=low,
            high=high,
        )
