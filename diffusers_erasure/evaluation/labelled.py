"""Pictures of known content, and the judge's answers about them counted into a confusion matrix."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from diffusers_erasure.errors import EvaluationError

from .confusion import ConfusionMatrix, JudgeValidation, LabelledBy, Source
from .judges import Question


@dataclass(frozen=True)
class LabelledPictures:
    """Pictures of known content from one source.

    Attributes:
        images: `(pictures, 3, height, width)`, uint8.
        shows: Whether each of them shows the concept.
        source: Who drew them.
        labelled_by: How that is known.
    """

    images: Tensor
    shows: tuple[bool, ...]
    source: Source
    labelled_by: LabelledBy

    def __post_init__(self) -> None:
        if len(self.images) != len(self.shows):
            raise EvaluationError(
                f"{len(self.images)} pictures came with {len(self.shows)} labels; expected one label each; "
                "check the labelled set"
            )


def validate_judge(question: Question, labelled: Iterable[LabelledPictures]) -> JudgeValidation:
    """Ask a judge about pictures of known content and count its errors per source.

    Args:
        question: The judge and the labels that count.
        labelled: Pictures of known content; those of one source are counted together and must be labelled in
            the same way.

    Raises:
        EvaluationError: There are no pictures, or those of one source were labelled in different ways.
    """
    said: dict[Source, list[bool]] = {}
    shows: dict[Source, list[bool]] = {}
    how: dict[Source, LabelledBy] = {}
    for part in labelled:
        if how.setdefault(part.source, part.labelled_by) is not part.labelled_by:
            raise EvaluationError(
                f"pictures of {part.source} were labelled by {how[part.source]} and by {part.labelled_by}; "
                "expected one way per source, so that errors can be told apart; validate them one at a time"
            )
        said.setdefault(part.source, []).extend(question(part.images).tolist())
        shows.setdefault(part.source, []).extend(part.shows)
    if not any(map(len, shows.values())):
        raise EvaluationError(
            "the labelled set has no pictures; expected some with and some without the concept, of the base "
            "and of the erased pipeline; draw and label them"
        )
    return JudgeValidation(
        judge=question.judge.name,
        version=question.judge.version,
        sha256=question.judge.sha256,
        threshold=question.judge.threshold,
        labels=question.labels,
        matrices=tuple(
            ConfusionMatrix.of(said[source], shows[source], source, how[source]) for source in shows
        ),
    )
