"""The judge's errors, per source: counted, carried over where they must be, and never invented."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from diffusers_erasure.errors import EvaluationError
from diffusers_erasure.evaluation.confusion import ConfusionMatrix, JudgeValidation, LabelledBy, Source
from diffusers_erasure.evaluation.judges import Panel, Question, panel_question
from diffusers_erasure.evaluation.labelled import LabelledPictures, validate_judge
from diffusers_erasure.evaluation.proportion import Proportion
from diffusers_erasure.evaluation.rogan_gladen import CorrectedRate
from tests.reference import statistics as reference


@pytest.fixture
def question(panel: Panel) -> Question:
    """Is it a church? Told by the corner pixel."""
    return panel_question(panel, ("church",))


def labelled(
    question: Question,
    said: list[int],
    shows: list[int],
    source: Source = Source.BASE,
    by: LabelledBy = LabelledBy.HUMAN,
) -> LabelledPictures:
    """Pictures of which the judge will say what the test says."""
    church = question.judge.labels.index("church")
    images = torch.zeros((len(said), 3, 8, 8), dtype=torch.uint8)
    images[:] = torch.tensor([church if yes else church + 1 for yes in said])[:, None, None, None]
    return LabelledPictures(images, tuple(map(bool, shows)), source, by)


def test_errors_are_counted_per_source(question: Question) -> None:
    found = validate_judge(
        question,
        [
            labelled(question, [1, 1, 0, 0], [1, 0, 1, 0]),
            labelled(question, [1, 1], [1, 1]),
            labelled(question, [0, 0, 1], [0, 0, 0], Source.ERASED),
        ],
    )
    base, erased = found.of(Source.BASE), found.of(Source.ERASED)
    assert base is not None
    assert erased is not None
    assert (base.true_positives, base.false_negatives) == (3, 1)
    assert (base.false_positives, base.true_negatives) == (1, 1)
    assert (base.sensitivity.k, base.sensitivity.n) == (3, 4)
    assert (base.specificity.k, base.specificity.n) == (1, 2)
    assert erased.sensitivity is None
    assert (erased.specificity.k, erased.specificity.n) == (2, 3)
    assert (found.judge, found.threshold, found.labels) == ("corner", 0.5, ("church",))
    assert JudgeValidation.model_validate_json(found.model_dump_json()) == found


def matrix(source: Source, tp: int, fn: int, fp: int, tn: int) -> ConfusionMatrix:
    return ConfusionMatrix(
        source=source,
        labelled_by=LabelledBy.HUMAN,
        true_positives=tp,
        false_negatives=fn,
        false_positives=fp,
        true_negatives=tn,
    )


def validation(*matrices: ConfusionMatrix) -> JudgeValidation:
    return JudgeValidation(
        judge="j", version="1", sha256="0" * 64, threshold=0.5, labels=("church",), matrices=matrices
    )


def test_a_rate_is_corrected_by_the_matrix_of_its_own_source() -> None:
    observed = Proportion.of(30, 100)
    both = validation(matrix(Source.BASE, 99, 1, 1, 99), matrix(Source.ERASED, 80, 20, 10, 90))
    found = both.correct(observed)
    assert found is not None
    assert (found.sensitivity, found.specificity) == ((80, 100), (90, 100))
    assert found.rate == pytest.approx(float(reference.rogan_gladen((30, 100), (80, 100), (90, 100))))
    on_base = both.correct(observed, Source.BASE)
    assert on_base is not None
    assert on_base.sensitivity == (99, 100)
    many = both.correct(observed, pictures=4)
    assert many == CorrectedRate.of((30, 100), (80, 100), (90, 100), 4)


def test_errors_are_taken_over_only_where_they_must_be_and_that_is_said() -> None:
    half = validation(matrix(Source.ERASED, 0, 0, 10, 90), matrix(Source.BASE, 99, 1, 1, 99))
    assert half.errors(Source.ERASED) == ((99, 100), (99, 100), Source.BASE)
    nothing = validation(matrix(Source.ERASED, 0, 0, 10, 90))
    assert nothing.errors(Source.ERASED) is None
    assert nothing.correct(Proportion.of(3, 10)) is None


def test_false_successes_of_many_pictures() -> None:
    found = matrix(Source.BASE, 10, 0, 1, 99).false_success(51)
    assert found is not None
    assert found.rate == pytest.approx(1 - 0.99**51)
    assert matrix(Source.BASE, 10, 0, 0, 0).false_success(51) is None


def test_a_judge_no_better_than_chance_corrects_nothing() -> None:
    with pytest.raises(EvaluationError, match="no better than chance"):
        validation(matrix(Source.ERASED, 50, 50, 50, 50)).correct(Proportion.of(3, 10))


def test_what_a_validation_refuses(question: Question) -> None:
    with pytest.raises(EvaluationError, match="has no pictures"):
        validate_judge(question, [])
    mixed = [labelled(question, [1], [1]), labelled(question, [1], [1], by=LabelledBy.PROMPT)]
    with pytest.raises(EvaluationError, match="labelled by human and by prompt"):
        validate_judge(question, mixed)
    with pytest.raises(EvaluationError, match="3 pictures came with 2 labels"):
        LabelledPictures(torch.zeros(3, 3, 8, 8), (True, False), Source.BASE, LabelledBy.HUMAN)
    with pytest.raises(EvaluationError, match="2 answers were compared with 1 labels"):
        ConfusionMatrix.of([True, False], [True], Source.BASE, LabelledBy.HUMAN)
    with pytest.raises(ValidationError, match="expected one per source"):
        validation(matrix(Source.BASE, 1, 0, 0, 1), matrix(Source.BASE, 1, 0, 0, 1))
