"""Learning rates against those of diffusers' own schedulers."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from diffusers.optimization import get_scheduler

from diffusers_erasure.training.draws import StepDraws, derived_seed
from diffusers_erasure.training.schedules import LearningRate, ScheduleName


@pytest.mark.parametrize("name", get_args(ScheduleName))
@pytest.mark.parametrize("warmup", [0, 3])
def test_rates_are_those_of_diffusers(name: ScheduleName, warmup: int) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    theirs = get_scheduler(
        name, optimizer, num_warmup_steps=warmup, num_training_steps=20, num_cycles=2, power=1.5
    )
    cycles = 2 if name == "cosine_with_restarts" else 1
    ours = LearningRate(0.5, name, steps=20, warmup=warmup, cycles=cycles, power=1.5)
    for step in range(20):
        expected = optimizer.param_groups[0]["lr"]
        assert ours.at(step) == pytest.approx(expected, abs=1e-9), step
        optimizer.step()
        theirs.step()


def test_cosine_falls_once() -> None:
    rate = LearningRate(1.0, "cosine", steps=11, warmup=1)
    assert [round(rate.at(step), 6) for step in (0, 1, 6, 11)] == [0.0, 1.0, 0.5, 0.0]


def test_draws_depend_on_the_sample_not_on_how_the_batch_is_split() -> None:
    whole = StepDraws.at(0, 5, batch=4).normal(3)
    parts = [StepDraws.at(0, 5, batch=2, first=first).normal(3) for first in (0, 2)]
    assert torch.equal(whole, torch.cat(parts))
    assert not torch.equal(whole, StepDraws.at(0, 6, batch=4).normal(3))
    assert not torch.equal(whole, StepDraws.at(1, 5, batch=4).normal(3))
    first, second = StepDraws.at(0, 5, batch=2), StepDraws.at(0, 5, batch=2, first=2)
    assert torch.equal(torch.rand(3, generator=first.shared), torch.rand(3, generator=second.shared))


def test_seeds_are_unrelated_and_fit_a_generator() -> None:
    seeds = {derived_seed(0, step, part) for step in range(100) for part in ("sample", "shared")}
    assert len(seeds) == 200
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derived_seed(1, 23) != derived_seed(12, 3)
