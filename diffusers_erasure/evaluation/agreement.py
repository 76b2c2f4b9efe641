"""Do two judges of different architecture agree? Counts, Cohen's kappa with its interval, who says yes more.

Kappa (Educ. Psychol. Meas. 20, 1960) is the agreement beyond what the two judges' own shares of yes give by
chance. Its interval uses the large-sample standard error of Fleiss, Cohen & Everitt (Psychol. Bull. 72,
1969). Where nearly all pictures get one answer kappa says little, so the four counts are kept. No torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from .intervals import Z_95, cohen_kappa, mcnemar_exact

Answers = Sequence[bool]


class Agreement(BaseModel):
    """Answers of two judges to the same question about the same pictures."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    first: str = Field(description="name of the first judge")
    second: str = Field(description="name of the second judge")
    both: int = Field(ge=0, description="pictures in which both see the concept")
    first_only: int = Field(ge=0, description="pictures in which only the first judge does")
    second_only: int = Field(ge=0, description="pictures in which only the second judge does")
    neither: int = Field(ge=0, description="pictures in which neither does")
    kappa: float = Field(ge=-1, le=1, description="Cohen's kappa")
    low: float = Field(ge=-1, le=1, description="lower bound of its 95 % interval")
    high: float = Field(ge=-1, le=1, description="upper bound of its 95 % interval")
    mcnemar_p: float = Field(ge=0, le=1, description="exact McNemar test of who says yes more often")

    @classmethod
    def of(cls, first: str, second: str, first_answers: Answers, second_answers: Answers) -> Self:
        """Compare the answers of two judges, one per picture.

        Raises:
            EvaluationError: The judges were not shown the same number of pictures, or none.
        """
        kappa = cohen_kappa(first_answers, second_answers)
        pairs = list(zip(first_answers, second_answers, strict=True))
        counts = [pairs.count(pair) for pair in ((True, True), (True, False), (False, True), (False, False))]
        half_width = Z_95 * kappa_standard_error(*counts)
        return cls(
            first=first,
            second=second,
            both=counts[0],
            first_only=counts[1],
            second_only=counts[2],
            neither=counts[3],
            kappa=kappa,
            low=max(-1.0, kappa - half_width),
            high=min(1.0, kappa + half_width),
            mcnemar_p=mcnemar_exact(counts[1], counts[2]),
        )

    @model_validator(mode="after")
    def _has_pictures(self) -> Self:
        if not self.pictures:
            raise ValueError("no pictures were compared; expected one at least; judge some first")
        return self

    @property
    def pictures(self) -> int:
        """How many pictures both judges were shown."""
        return self.both + self.first_only + self.second_only + self.neither

    @property
    def observed(self) -> float:
        """Share of pictures on which they agree."""
        return (self.both + self.neither) / self.pictures

    def __str__(self) -> str:
        """Agreement in words: `agree on 90/100, kappa 0.78 (0.65-0.91)`."""
        return (
            f"agree on {self.both + self.neither}/{self.pictures}, kappa {self.kappa:.2f} "
            f"({self.low:.2f}-{self.high:.2f})"
        )


def kappa_standard_error(both: int, first_only: int, second_only: int, neither: int) -> float:
    """Large-sample standard error of Cohen's kappa for two yes/no raters; 0 where kappa is not defined."""
    n = both + first_only + second_only + neither
    table = ((both / n, first_only / n), (second_only / n, neither / n))
    rows = [sum(row) for row in table]
    columns = [table[0][0] + table[1][0], table[0][1] + table[1][1]]
    observed = table[0][0] + table[1][1]
    chance = sum(row * column for row, column in zip(rows, columns, strict=True))
    if chance == 1:
        return 0.0
    kappa = (observed - chance) / (1 - chance)
    diagonal = sum(table[i][i] * (1 - (rows[i] + columns[i]) * (1 - kappa)) ** 2 for i in range(2))
    corner = sum(table[i][1 - i] * (columns[i] + rows[1 - i]) ** 2 for i in range(2))
    variance = diagonal + (1 - kappa) ** 2 * corner - (kappa - chance * (1 - kappa)) ** 2
    return sqrt(max(0.0, variance)) / ((1 - chance) * sqrt(n))
