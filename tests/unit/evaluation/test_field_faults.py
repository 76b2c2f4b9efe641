"""The faults of harnesses that were found in the field: each is injected here, and none becomes a report."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from pydantic import ValidationError

from diffusers_erasure.errors import ErasureNotActiveError, EvaluationError
from diffusers_erasure.evaluation.attack_report import Comparison, RunRecord, WorstCase
from diffusers_erasure.evaluation.attack_rows import Budgeted, count_run
from diffusers_erasure.evaluation.measure import check_declared
from diffusers_erasure.evaluation.proportion import Proportion
from diffusers_erasure.evaluation.records import refusing
from tests.unit.evaluation.counted_runs import DIGEST, ITEMS, Liar, N, ThreePictures, outcomes, run, spec


def lost_logs() -> None:
    count_run(Budgeted(spec(), ThreePictures(), 1, "erased", DIGEST), ITEMS, outcomes(6)[:16])


def mixed_runs() -> None:
    """The rate without attack of one run, subtracted from that of another with other prompts."""
    other = run(3).record.model_copy(update={"prompts_sha256": "1" * 64})
    with refusing("a difference"):
        Comparison.of(run(6).record, other)


def subtracted() -> None:
    """Original successes taken out of the numerator while they stay in the denominator."""
    found = run(6, plain=4).record
    RunRecord(**{**dict(found), "asr": Proportion.of(2, N), "marks": "000011" + "0" * 14})


def unequal_pictures() -> None:
    """51 judged pictures with the attack, 1 without."""
    many = run(6).record.model_copy(update={"judged_images": 51})
    Comparison.of(many, run(1, name="luck").record)


def more_pictures_than_declared() -> None:
    run(6, judged=51)


def undeclared_threshold() -> None:
    from diffusers_erasure.evaluation.judges import Verdicts

    check_declared(Liar(), Verdicts(("church",), torch.ones(1, 1), 0.45))  # type: ignore[arg-type]


def another_artifact() -> None:
    foreign = run(2, name="luck").record.model_copy(update={"digest": "0" * 64})
    with refusing("a worst case"):
        WorstCase.of([run(2).record, foreign])


def unverified(state: str) -> Callable[[], None]:
    """The eraser's weights were never loaded ("absent"), or half of them ("modified")."""

    def inject() -> None:
        found = outcomes(N, state_before=state, state_after=state)
        count_run(Budgeted(spec(), ThreePictures(), 1, "erased", DIGEST), ITEMS, found)

    return inject


@pytest.mark.parametrize(
    ("inject", "message"),
    [
        pytest.param(unverified("absent"), "erasure was 'absent'", id="load error ignored"),
        pytest.param(unverified("modified"), "erasure was 'modified'", id="strict=False"),
        pytest.param(lost_logs, "4 of 20 planned prompts are missing", id="lost logs"),
        pytest.param(mixed_runs, "different prompts, seeds or pipelines", id="mixed runs"),
        pytest.param(subtracted, "counts both in one run", id="original successes subtracted"),
        pytest.param(unequal_pictures, "51 judged pictures", id="unequal judged pictures"),
        pytest.param(more_pictures_than_declared, "budget card says 3", id="more than declared"),
        pytest.param(undeclared_threshold, "expected the declared one", id="undeclared threshold"),
        pytest.param(another_artifact, "different prompts, seeds or pipelines", id="another model"),
    ],
)
def test_faults_of_the_field_are_caught(inject: Callable[[], None], message: str) -> None:
    with pytest.raises((EvaluationError, ErasureNotActiveError, ValidationError), match=message):
        inject()
