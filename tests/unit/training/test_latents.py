"""Latents addressed by a step's draws: the same for every split of the batch, and never without a target."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from diffusers import StableDiffusionPipeline

from diffusers_erasure.diffusion import BankSettings, DiffusionComponents
from diffusers_erasure.errors import ConfigError
from diffusers_erasure.training.draws import StepDraws
from diffusers_erasure.training.latents import TeacherLatents, unconditional_of

Mode = Literal["fresh", "per_trajectory", "pool"]


def latents_of(pipe: StableDiffusionPipeline, mode: Mode, *, unconditional: bool = True) -> TeacherLatents:
    settings = BankSettings(mode=mode, steps=4, unconditional=unconditional)
    return TeacherLatents.build(DiffusionComponents.from_pipeline(pipe), ["dog", "owl"], settings)


@pytest.mark.parametrize("mode", ["fresh", "pool"])
def test_a_batch_in_two_parts_is_the_same_batch(tiny_pipe: StableDiffusionPipeline, mode: Mode) -> None:
    source, prompts = latents_of(tiny_pipe, mode), [1, 0, 0, 1]
    whole = source.draw(StepDraws.at(3, 7, batch=4), prompts)
    first = source.draw(StepDraws.at(3, 7, batch=2), prompts[:2])
    second = source.draw(StepDraws.at(3, 7, batch=2, first=2), prompts[2:])
    assert whole.prompt_index.tolist() == prompts
    assert torch.equal(whole.timesteps, torch.cat([first.timesteps, second.timesteps]))
    for name in ("latents", "target_conditional", "target_unconditional"):
        parts = torch.cat([getattr(first, name), getattr(second, name)])
        torch.testing.assert_close(getattr(whole, name), parts, atol=1e-5, rtol=1e-4)
    assert len(whole.latents.flatten(1).unique(dim=0)) > 1


@pytest.mark.parametrize("mode", ["fresh", "pool"])
def test_a_bank_without_unconditional_predictions_is_refused(
    tiny_pipe: StableDiffusionPipeline, mode: Mode
) -> None:
    source = latents_of(tiny_pipe, mode, unconditional=False)
    with pytest.raises(ConfigError, match="build the bank with unconditional=True"):
        unconditional_of(source.draw(StepDraws.at(0, 0, batch=1), [0]))


def test_a_trajectory_serves_every_step_once_and_a_resumed_run_takes_the_rest(
    tiny_pipe: StableDiffusionPipeline,
) -> None:
    source, again = latents_of(tiny_pipe, "per_trajectory"), latents_of(tiny_pipe, "per_trajectory")
    begun = [source.draw(StepDraws.at(0, step, batch=1), [0]) for step in range(2)]
    again.bank.load_state(source.bank.state())
    rest = [source.draw(StepDraws.at(0, step, batch=1), [0]) for step in (2, 3)]
    other = [again.draw(StepDraws.at(0, step, batch=1), [0]) for step in (2, 3)]
    assert len({int(one.timesteps) for one in [*begun, *rest]}) == 4
    for one, two in zip(rest, other, strict=True):
        assert torch.equal(one.latents, two.latents)


def test_processes_do_not_share_trajectories_that_are_used_up(
    tiny_pipe: StableDiffusionPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffusers_erasure.training.latents._processes", lambda: 2)
    latents_of(tiny_pipe, "pool")
    with pytest.raises(ConfigError, match=r"trajectory with 2 processes.*take latents_from pool"):
        latents_of(tiny_pipe, "per_trajectory")
