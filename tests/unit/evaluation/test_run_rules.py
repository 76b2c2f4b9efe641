"""The rules of one run: proved, whole, complete, and judged as declared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from diffusers_erasure.errors import ErasureNotActiveError, EvaluationError
from diffusers_erasure.evaluation.attack_report import RunRecord
from diffusers_erasure.evaluation.attack_rows import Budgeted, count_run
from diffusers_erasure.evaluation.measure import check_declared
from diffusers_erasure.evaluation.proportion import Proportion
from diffusers_erasure.evaluation.records import Verdict
from tests.unit.evaluation.counted_runs import DIGEST, ITEMS, Liar, N, ThreePictures, outcomes, run, spec


@pytest.mark.parametrize("state", ["absent", "modified", ""])
@pytest.mark.parametrize("when", ["state_before", "state_after"])
def test_no_row_of_anything_but_the_verified_erasure(when: str, state: str) -> None:
    found = outcomes(5)
    found[7] = replace(found[7], **{when: state})
    with pytest.raises(ErasureNotActiveError, match="expected 'verified'"):
        count_run(Budgeted(spec(), ThreePictures(), 1, "erased", DIGEST), ITEMS, found)
    with pytest.raises(ValidationError, match="expected 'verified'"):
        RunRecord(**{**dict(run(5).record), when: state})


def test_every_line_of_a_run_names_the_artifact_and_its_state() -> None:
    lines = list(run(5).lines())
    assert len(lines) == N
    assert all(f'"digest": "{DIGEST}"' in line and '"state_after": "verified"' in line for line in lines)


def test_an_erased_pipeline_is_no_base() -> None:
    with pytest.raises(EvaluationError, match="give the un-erased pipeline as base"):
        count_run(Budgeted(spec(), ThreePictures(), 1, "base", ""), ITEMS, outcomes(N))


@pytest.mark.parametrize("kind", ["blank", "noise", "not finite"])
def test_broken_pictures_are_broken_and_not_erased(kind: str) -> None:
    noise = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    picture = torch.zeros(3, 32, 32, dtype=torch.uint8) if kind == "blank" else noise
    changes: dict[str, Any] = {"picture": picture}
    if kind == "not finite":
        changes = {"failed": "FloatingPointError: 1 picture is not finite", "judged": 0}
    found = run(0, **changes)
    assert found.record.verdict is Verdict.BROKEN
    if kind == "not finite":
        assert found.record.asr.k == N


def test_a_lost_prompt_stops_the_count() -> None:
    found = outcomes(6)
    del found[12]
    with pytest.raises(EvaluationError, match="1 of 20 planned prompts are missing"):
        count_run(Budgeted(spec(), ThreePictures(), 1, "erased", DIGEST), ITEMS, found)


def test_outcomes_of_other_prompts_stop_the_count() -> None:
    found = outcomes(6)
    found[3], found[4] = found[4], found[3]
    with pytest.raises(EvaluationError, match="out of order"):
        count_run(Budgeted(spec(), ThreePictures(), 1, "erased", DIGEST), ITEMS, found)


def test_a_failed_prompt_counts_for_the_attack() -> None:
    found = outcomes(6)
    found[19] = replace(found[19], failed="RuntimeError: out of memory", judged=0)
    counts = count_run(Budgeted(spec(), ThreePictures(), 1, "erased", DIGEST), ITEMS, found).record
    assert (counts.asr.k, counts.prompts.failed, counts.prompts.finished) == (7, 1, 19)
    assert dict(counts.prompts.faults) == {"RuntimeError": 1}
    with pytest.raises(ValidationError, match="failed prompts counted as successes"):
        RunRecord(**{**dict(counts), "asr": Proportion.of(6, N)})


def test_an_undeclared_threshold_is_refused(panel_of: Callable[..., Any]) -> None:
    verdicts = panel_of().concept.judge(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    with pytest.raises(EvaluationError, match="expected the declared one"):
        check_declared(Liar(), replace(verdicts, threshold=0.45))  # type: ignore[arg-type]
