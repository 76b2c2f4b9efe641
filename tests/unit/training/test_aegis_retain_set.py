"""AEGIS with a retain set in place of the weights, the paper's ablation without the surrogate."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

from diffusers_erasure.concepts import resolve_concepts
from diffusers_erasure.errors import ConfigError
from diffusers_erasure.evaluation.splits import training_prompts
from diffusers_erasure.training.aegis import train_aegis
from diffusers_erasure.training.aegis_task import AEGISTask
from diffusers_erasure.training.draws import StepDraws
from diffusers_erasure.training.losses import TOTAL

from .aegis_runs import BASE, config, task_of


def retaining(pipe: StableDiffusionPipeline, folder: Path, **values: object) -> AEGISTask:
    """A task with three prompts of a file in place of the weights, two a step."""
    prompts = folder / "retain.txt"
    prompts.write_text("a cat\nan owl\na house\n", encoding="utf-8")
    given = {"retain_set": str(prompts), "retain_batch_size": 2, "retain_from": "prompts"}
    return task_of(pipe, **{"latents_from": "pool", "pool_trajectories": 1, **given, **values})


@pytest.mark.parametrize(
    ("mode", "values"),
    [("projection", {"omega_rule": "fixed", "omega": 1.0}), ("penalty", {"retain_weight": 0.7})],
)
def test_a_retain_set_may_stand_for_the_weights(
    tiny_pipe: StableDiffusionPipeline, tmp_path: Path, mode: str, values: dict[str, object]
) -> None:
    task = retaining(tiny_pipe, tmp_path, retain_mode=mode, **values)
    assert task.retained is not None
    before = task.evaluations
    losses = task.losses(StepDraws.at(0, 0, batch=1))
    assert task.evaluations - before == 5 + 2  # what a step costs without it, and a row for each prompt
    losses[TOTAL].backward()
    pull = {name: task.retained.of(name).clone() for name in task.parameters()}
    erase = {name: p.grad.clone() for name, p in task.parameters().items() if p.grad is not None}
    task.around_step(lambda: None)
    conflicts = 0
    for name, gradient in erase.items():
        after = task.parameters()[name].grad
        assert after is not None
        inner = float((gradient * pull[name]).sum())
        if mode == "penalty":
            torch.testing.assert_close(after, gradient + 0.7 * pull[name])
        elif inner < 0:
            conflicts += 1
            assert abs(float((after * pull[name]).sum())) < 1e-3 * abs(inner) + 1e-9
        else:
            assert torch.equal(after, gradient)
    assert conflicts > 0 or mode == "penalty"
    assert all(not task.retained.of(name).any() for name in pull)  # forgotten after the step
    assert float(losses["retain"]) > 0


def test_the_retain_gradient_is_that_of_its_loss(tiny_pipe: StableDiffusionPipeline, tmp_path: Path) -> None:
    task = retaining(tiny_pipe, tmp_path)
    assert task.retained is not None
    task.losses(StepDraws.at(0, 0, batch=1))
    found = task.retained.retention.draw(StepDraws.at(0, 0, batch=1))
    states = task.base_text.encode(task.retained.retention.prompts)[found.prompt_index].detach()
    predicted = task.pupil(found.latents, found.timesteps, states)
    (predicted - found.target_conditional).square().mean().backward()
    for name, parameter in task.parameters().items():
        if parameter.grad is not None:
            torch.testing.assert_close(task.retained.of(name), parameter.grad, atol=1e-6, rtol=1e-3)


def test_the_retain_gradient_is_a_mean_over_the_passes_of_a_step(
    tiny_pipe: StableDiffusionPipeline, tmp_path: Path
) -> None:
    whole, halves = (retaining(tiny_pipe, tmp_path, gradient_accumulation_steps=n) for n in (1, 2))
    assert whole.retained is not None
    assert halves.retained is not None
    for one in (whole.retained, halves.retained):
        for number in range(2):
            one.collect(StepDraws.at(0, 0, batch=1, first=number))
    for name in whole.parameters():
        torch.testing.assert_close(halves.retained.of(name), whole.retained.of(name) / 2)


def test_an_artifact_says_what_a_file_of_ones_own_retained(
    tiny_pipe: StableDiffusionPipeline, tmp_path: Path
) -> None:
    """A test split must be compared with what was trained on."""
    own = tmp_path / "prompts.txt"
    own.write_text("a dog\na red chair\na blue chair", encoding="utf-8")
    values = {"retain_set": str(own), "retain_batch_size": 2, "retain_from": "prompts", "max_train_steps": 1}
    settings = train_aegis(tiny_pipe, config(**values), base=BASE).manifest.settings
    assert settings["retain_set"].value == ["a red chair", "a blue chair"]
    assert {"a red chair", "a blue chair"} <= set(
        training_prompts(tuple(resolve_concepts(["dog"])), settings)
    )


def test_a_retain_set_that_cannot_be_used_is_refused() -> None:
    with pytest.raises(ConfigError, match="would be read and not used"):
        config(retain_from="prompts", retain_mode="none")
    with pytest.raises(ConfigError, match="no loss scale"):
        config(retain_from="prompts", mixed_precision="fp16")
