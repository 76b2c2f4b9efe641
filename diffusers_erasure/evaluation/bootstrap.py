"""Bootstrap over prompts: how much a figure would move with another sample of prompts.

Pictures of one prompt resemble each other, so prompts are drawn with replacement and each brings all of its
pictures (the cluster bootstrap; Davison & Hinkley 1997, section 3.8). The interval is the percentile one.
Randomness comes from the caller's generator, so a figure can be computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from diffusers_erasure.errors import EvaluationError

RESAMPLES = 2000
LEVEL = 0.95


class Estimate(BaseModel):
    """A figure with its bootstrap interval."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float = Field(description="the figure itself")
    low: float = Field(description="lower bound of the percentile interval")
    high: float = Field(description="upper bound of the percentile interval")
    level: float = Field(gt=0, lt=1, description="share of resamples inside the interval")
    resamples: int = Field(ge=1, description="how often the prompts were drawn")
    prompts: int = Field(ge=1, description="different prompts")
    pictures: int = Field(ge=1, description="pictures over all prompts")

    def __str__(self) -> str:
        """Figure and interval: `0.310 (0.305-0.316)`."""
        return f"{self.value:.3f} ({self.low:.3f}-{self.high:.3f})"


def resampled_rows(
    prompts: Sequence[Hashable], *, generator: torch.Generator, resamples: int = RESAMPLES
) -> list[Tensor]:
    """Rows of each resample: prompts drawn with replacement, each with all of its rows.

    Args:
        prompts: The prompt of each row.
        generator: Source of the draws.
        resamples: How many.

    Returns:
        One tensor of row numbers per resample.
    """
    if not prompts or resamples < 1:
        raise EvaluationError(
            f"{len(prompts)} rows cannot be resampled {resamples} times; expected one of each at least; "
            "measure something first"
        )
    members: dict[Hashable, list[int]] = {}
    for row, prompt in enumerate(prompts):
        members.setdefault(prompt, []).append(row)
    clusters = [torch.tensor(rows) for rows in members.values()]
    draws = torch.randint(len(clusters), (resamples, len(clusters)), generator=generator)
    return [torch.cat([clusters[index] for index in draw]) for draw in draws.tolist()]


def bootstrap(
    values: Tensor,
    prompts: Sequence[Hashable],
    *,
    generator: torch.Generator,
    statistic: Callable[[Tensor], float] | None = None,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Estimate:
    """A figure of some rows, with its interval over prompts.

    Args:
        values: `(rows, ...)`, one row per picture.
        prompts: The prompt of each row.
        generator: Source of the draws.
        statistic: From rows to the figure; their mean unless given.
        resamples: How often the prompts are drawn.
        level: Share of resamples inside the interval.

    Raises:
        EvaluationError: Rows and prompts do not match, or there are none.
    """
    if len(values) != len(prompts) or not 0 < level < 1:
        raise EvaluationError(
            f"{len(values)} rows with {len(prompts)} prompts at level {level} cannot be resampled; expected "
            "one prompt per row and a level between 0 and 1; repeat a prompt for each of its pictures"
        )
    statistic = statistic or _mean
    rows = resampled_rows(prompts, generator=generator, resamples=resamples)
    found = torch.tensor([statistic(values[chosen]) for chosen in rows], dtype=torch.float64)
    bounds = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = torch.quantile(found, bounds).tolist()
    return Estimate(
        value=statistic(values),
        low=low,
        high=high,
        level=level,
        resamples=resamples,
        prompts=len(set(prompts)),
        pictures=len(prompts),
    )


def _mean(values: Tensor) -> float:
    return float(values.double().mean())
