"""The true rate behind what an imperfect judge reports (Rogan & Gladen, Am. J. Epidemiol. 107, 1978).

A judge with sensitivity Se and specificity Sp that says yes in a share p of pictures was shown the concept in

    (p + Sp - 1) / (Se + Sp - 1)

of them. Se and Sp are themselves measured, on pictures of known content, and their uncertainty belongs into
the interval: it is that of Lang & Reiczigel (Prev. Vet. Med. 113, 2014), equations 6, 7, 16 and 17, which
adds pseudo-counts (z squared of them to p, two each to Se and Sp) before the delta method, and shifts its
centre.

Where one yes of m pictures is enough, a prompt without the concept is judged rightly only if all m pictures
are: Sp^m takes the place of Sp. What was measured is Sp, so the delta method carries its variance through the
power, which makes it (m Sp^(m-1))^2 as large; the error of a picture weighs m times. No torch.
"""

from __future__ import annotations

from math import sqrt
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from diffusers_erasure.errors import EvaluationError

from .intervals import Z_95, check_counts

Counts = tuple[int, int]
"""k of n."""


def rogan_gladen(rate: float, sensitivity: float, specificity: float) -> float:
    """The true rate, in [0, 1], behind a rate that a judge reports.

    Args:
        rate: Share of pictures for which the judge says yes.
        sensitivity: Share of pictures with the concept for which it says yes.
        specificity: Share of pictures without it for which it says no.

    Raises:
        EvaluationError: The judge is no better than chance, so that nothing can be inferred.
    """
    youden = _youden(sensitivity, specificity)
    return min(1.0, max(0.0, (rate + specificity - 1) / youden))


def lang_reiczigel(
    observed: Counts, sensitivity: Counts, specificity: Counts, pictures: int = 1, *, z: float = Z_95
) -> tuple[float, float]:
    """Bounds of the true rate, each in [0, 1], with the uncertainty of all three measurements.

    Args:
        observed: Pictures for which the judge says yes, of how many.
        sensitivity: Pictures with the concept for which it says yes, of how many.
        specificity: Pictures without it for which it says no, of how many.
        pictures: Pictures that each observation is made of, of which one yes is enough.
        z: Normal quantile; the default gives 95 %.

    Raises:
        EvaluationError: The judge is no better than chance.
    """
    for counts in (observed, sensitivity, specificity):
        check_counts(*counts)
    _youden(sensitivity[0] / sensitivity[1], (specificity[0] / specificity[1]) ** pictures)
    n, n_se, n_sp = observed[1] + z * z, sensitivity[1] + 2, specificity[1] + 2
    rate = (observed[0] + z * z / 2) / n
    se, one = (sensitivity[0] + 1) / n_se, (specificity[0] + 1) / n_sp
    sp = one**pictures
    youden = _youden(se, sp)
    true = (rate + sp - 1) / youden
    se_part = se * (1 - se) / n_se
    sp_part = (pictures * one ** (pictures - 1)) ** 2 * one * (1 - one) / n_sp
    shift = 2 * z * z * (true * se_part - (1 - true) * sp_part)
    variance = (rate * (1 - rate) / n + true**2 * se_part + (1 - true) ** 2 * sp_part) / youden**2
    half_width = z * sqrt(variance)
    low, high = true + shift - half_width, true + shift + half_width
    return min(1.0, max(0.0, low)), max(0.0, min(1.0, high))


def _youden(sensitivity: float, specificity: float) -> float:
    """Youden's J = Se + Sp - 1, above 0."""
    if not (0 <= sensitivity <= 1 and 0 <= specificity <= 1 and sensitivity + specificity > 1):
        raise EvaluationError(
            f"the judge has sensitivity {sensitivity:.3f} and specificity {specificity:.3f}; expected a sum "
            "above 1, since otherwise it is no better than chance and its rates say nothing; use another "
            "judge"
        )
    return sensitivity + specificity - 1


class CorrectedRate(BaseModel):
    """A rate corrected for the judge's errors, with the counts that it was computed from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    observed: Counts = Field(description="pictures for which the judge says yes, of how many")
    sensitivity: Counts = Field(description="pictures with the concept for which it says yes, of how many")
    specificity: Counts = Field(description="pictures without the concept for which it says no, of how many")
    pictures: int = Field(default=1, ge=1, description="pictures of each observation; one yes is enough")
    rate: float = Field(ge=0, le=1, description="Rogan-Gladen estimate")
    low: float = Field(ge=0, le=1, description="lower bound of the Lang-Reiczigel 95 % interval")
    high: float = Field(ge=0, le=1, description="upper bound of the Lang-Reiczigel 95 % interval")

    @classmethod
    def of(cls, observed: Counts, sensitivity: Counts, specificity: Counts, pictures: int = 1) -> Self:
        """Correct k of n by a judge's k of n on pictures with, and on pictures without the concept."""
        rate, low, high = _corrected(observed, sensitivity, specificity, pictures)
        return cls(
            observed=observed,
            sensitivity=sensitivity,
            specificity=specificity,
            pictures=pictures,
            rate=rate,
            low=low,
            high=high,
        )

    @model_validator(mode="after")
    def _belongs_to_counts(self) -> Self:
        expected = _corrected(self.observed, self.sensitivity, self.specificity, self.pictures)
        found = (self.rate, self.low, self.high)
        if max(abs(a - b) for a, b in zip(found, expected, strict=True)) > 1e-9:
            raise ValueError(
                f"the corrected rate {self.rate:.4f} ({self.low:.4f}-{self.high:.4f}) does not follow from "
                f"its counts; expected {expected[0]:.4f} ({expected[1]:.4f}-{expected[2]:.4f}); do not "
                "edit a report by hand"
            )
        return self

    def __str__(self) -> str:
        """Percent and interval: `20.2 % (11.1-30.6), corrected for the judge`."""
        return (
            f"{100 * self.rate:.1f} % ({100 * self.low:.1f}-{100 * self.high:.1f}), corrected for the judge"
        )


def _corrected(
    observed: Counts, sensitivity: Counts, specificity: Counts, pictures: int
) -> tuple[float, float, float]:
    low, high = lang_reiczigel(observed, sensitivity, specificity, pictures)
    rate, se, sp = (k / n for k, n in (observed, sensitivity, specificity))
    return rogan_gladen(rate, se, sp**pictures), low, high
