"""How often a judge errs: its answers on pictures of known content, base and erased pipeline apart.

A judge that is right about the base's pictures can be wrong about an erased pipeline's, which draws things
that it has never seen. So the confusion matrix is kept per source, and the rate of an erased pipeline is
corrected (Rogan-Gladen) with the matrix of erased pictures where there is one. Where a label comes from
belongs to the record, since "the prompt asked for it" is a weaker witness than a person who looked:

    human         somebody looked at the picture
    construction  the picture was made from known content
    prompt        the prompt asked for it; pictures that miss their prompt then count as the judge's errors,
                  so that sensitivity and specificity come out too low rather than too high

The records need no torch; `labelled.py` asks a judge and counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from diffusers_erasure.errors import EvaluationError

from .multiple_testing import FalseSuccessRate
from .proportion import Proportion
from .rogan_gladen import CorrectedRate


class Source(StrEnum):
    """Who drew a picture."""

    BASE = "base"
    ERASED = "erased"


class LabelledBy(StrEnum):
    """How it is known what a picture shows."""

    HUMAN = "human"
    CONSTRUCTION = "construction"
    PROMPT = "prompt"


class ConfusionMatrix(BaseModel):
    """What the judge said about the pictures of one source, against what they show."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Source
    labelled_by: LabelledBy
    true_positives: int = Field(ge=0, description="shows it, and the judge says so")
    false_negatives: int = Field(ge=0, description="shows it, and the judge does not see it")
    false_positives: int = Field(ge=0, description="does not show it, and the judge sees it")
    true_negatives: int = Field(ge=0, description="does not show it, and the judge says so")

    @classmethod
    def of(cls, said: Sequence[bool], shows: Sequence[bool], source: Source, labelled_by: LabelledBy) -> Self:
        """Count answers against labels, one of each per picture."""
        if len(said) != len(shows):
            raise EvaluationError(
                f"{len(said)} answers were compared with {len(shows)} labels; expected one label per answer; "
                "judge the labelled pictures"
            )
        pairs = list(zip(said, shows, strict=True))
        return cls(
            source=source,
            labelled_by=labelled_by,
            true_positives=pairs.count((True, True)),
            false_negatives=pairs.count((False, True)),
            false_positives=pairs.count((True, False)),
            true_negatives=pairs.count((False, False)),
        )

    @property
    def positives(self) -> int:
        """Pictures that show the concept."""
        return self.true_positives + self.false_negatives

    @property
    def negatives(self) -> int:
        """Pictures that do not."""
        return self.true_negatives + self.false_positives

    @property
    def sensitivity(self) -> Proportion | None:
        """Share of pictures with the concept in which the judge sees it; None if there were none."""
        return Proportion.of(self.true_positives, self.positives) if self.positives else None

    @property
    def specificity(self) -> Proportion | None:
        """Share of pictures without it in which the judge does not; None if there were none."""
        return Proportion.of(self.true_negatives, self.negatives) if self.negatives else None

    def false_success(self, pictures: int) -> FalseSuccessRate | None:
        """How often its errors alone make a success of several pictures; None if there were no negatives."""
        if not self.negatives:
            return None
        return FalseSuccessRate.of(self.false_positives, self.negatives, pictures)


class JudgeValidation(BaseModel):
    """A judge's confusion matrix on pictures of known content: part of every report that uses its rates."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    judge: str
    version: str
    sha256: str
    threshold: float = Field(description="fixed before anything was measured")
    labels: tuple[str, ...] = Field(min_length=1, description="labels that count as showing the concept")
    matrices: tuple[ConfusionMatrix, ...] = Field(min_length=1, description="one per source")

    @model_validator(mode="after")
    def _one_matrix_per_source(self) -> Self:
        sources = [matrix.source for matrix in self.matrices]
        if len(set(sources)) != len(sources):
            raise ValueError(
                f"the confusion matrices are of {', '.join(sources)}; expected one per source; count the "
                "pictures of a source together"
            )
        return self

    def of(self, source: Source) -> ConfusionMatrix | None:
        """The matrix of one source, or None if it was not measured."""
        return next((matrix for matrix in self.matrices if matrix.source is source), None)

    def errors(self, source: Source) -> tuple[tuple[int, int], tuple[int, int], Source] | None:
        """Sensitivity and specificity that apply to pictures of a source, as k of n, and their own source.

        A source that has both classes speaks for itself. One that has not takes over the other's; that is
        said by the source returned. None if no source has both.
        """
        others = sorted(self.matrices, key=lambda matrix: matrix.source is not source)
        for matrix in others:
            if matrix.positives and matrix.negatives:
                return (
                    (matrix.true_positives, matrix.positives),
                    (matrix.true_negatives, matrix.negatives),
                    matrix.source,
                )
        return None

    def correct(
        self, observed: Proportion, source: Source = Source.ERASED, *, pictures: int = 1
    ) -> CorrectedRate | None:
        """A rate of this judge over pictures of a source, corrected for its errors.

        Args:
            observed: How often it says yes.
            source: Who drew the pictures.
            pictures: Pictures of each observation, of which one yes is enough.

        Returns:
            None if the judge's errors were not measured.

        Raises:
            EvaluationError: The judge is no better than chance.
        """
        found = self.errors(source)
        return CorrectedRate.of((observed.k, observed.n), *found[:2], pictures) if found else None
