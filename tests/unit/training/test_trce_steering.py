"""TRCE's second stage on the tiny pipeline: the paper's loss, what is trained, what it costs."""

from __future__ import annotations

import copy
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from diffusers_erasure.artifacts.edits import DeltaEdit
from diffusers_erasure.artifacts.tensors import component_tensors
from diffusers_erasure.diffusion import DiffusionComponents, TextPath, text_projections
from diffusers_erasure.errors import ConfigError, TrainingError
from diffusers_erasure.prompts import PromptPair
from diffusers_erasure.training import Progress
from diffusers_erasure.training.draws import StepDraws
from diffusers_erasure.training.losses import TOTAL, steering_hinge, steering_margin, steering_target
from diffusers_erasure.training.stopping import TrainingStopped
from diffusers_erasure.training.student import Student
from diffusers_erasure.training.trce import train_trce
from diffusers_erasure.training.trce_settings import TRCEConfig
from diffusers_erasure.training.trce_task import SteeringTask
from tests.reference.trce import direction, hinge

from .trce_runs import BASE, PAIRS, config, states_of


def task_of(pipe: StableDiffusionPipeline, **values: object) -> SteeringTask:
    """Stage 2 on the base model, its student not the original any more."""
    chosen = config(**values)
    components = DiffusionComponents.from_pipeline(pipe)
    student = Student.of(components, chosen.train_method)
    task = SteeringTask(components, components, student, PAIRS, chosen)
    with torch.no_grad():
        for weight in student.parameters.values():
            weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    return task


VALUES = st.lists(st.floats(-3, 3, width=32), min_size=4, max_size=4)


@settings(max_examples=60, deadline=None)
@given(predicted=VALUES, safe=VALUES, unsafe=VALUES, delta=st.floats(0, 1))
def test_the_hinge_is_the_papers(
    predicted: list[float], safe: list[float], unsafe: list[float], delta: float
) -> None:
    e, s, m = (torch.tensor(one).reshape(1, 1, 2, 2) for one in (predicted, safe, unsafe))
    found = float(steering_hinge(steering_margin(e, s, m), delta))
    assert found == pytest.approx(hinge(e, s, m, delta), abs=1e-4)


def test_directions_are_the_codes_with_one_more_beta() -> None:
    concept, empty = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(steering_target(concept, empty, 16.0), direction(concept, empty, 15.0))


def test_each_sample_has_a_hinge_of_its_own() -> None:
    assert float(steering_hinge(torch.tensor([2.0, -3.0]), 0.5)) == 1.25


def test_a_margin_of_half_precision_is_taken_in_full() -> None:
    predicted = torch.zeros(1, 1, 2, 2, dtype=torch.float16)
    margin = steering_margin(predicted, predicted + 1e-4, predicted)
    assert margin.dtype == torch.float32
    assert float(margin) == pytest.approx(1e-8, rel=1e-2)


def test_an_open_hinge_has_one_gradient_and_a_closed_one_none() -> None:
    """∂/∂e of |e - f_s|² - |e - f_m|² is 2 (f_m - f_s) / N = -2 β (e_s - e_m) / N, wherever e is."""
    generator = torch.Generator().manual_seed(0)
    safe_noise, unsafe_noise, empty = torch.randn(3, 1, 2, 4, 4, generator=generator)
    safe, unsafe = (steering_target(one, empty, 16.0) for one in (safe_noise, unsafe_noise))
    for start in (unsafe, unsafe_noise, empty):
        e = start.clone().requires_grad_(True)
        steering_hinge(steering_margin(e, safe, unsafe), 1e6).backward()
        expected = -2 * 16.0 * (safe_noise - unsafe_noise) / e.numel()
        torch.testing.assert_close(e.grad, expected, atol=1e-4, rtol=1e-4)
    e = safe.clone().requires_grad_(True)
    steering_hinge(steering_margin(e, safe, unsafe), 0.01).backward()
    assert e.grad is not None
    assert not e.grad.any()


def test_a_step_minimises_the_papers_loss(tiny_pipe: StableDiffusionPipeline) -> None:
    """Sample by sample, with every prediction asked anew and latents at their own timesteps."""
    task = task_of(tiny_pipe, train_batch_size=2, steering_margin=0.5, regularization_batch_size=3)
    losses = {name: float(value.detach()) for name, value in task.losses(StepDraws.at(3, 5, batch=2)).items()}
    draws = StepDraws.at(3, 5, batch=2)
    chosen = draws.integers(len(PAIRS))
    found = task.latents.draw(draws, chosen)
    kept = [task.stay.bank.draw(generator, 3) for generator in draws.samples]
    assert {int(t) for t in found.timesteps} <= {751, 501}

    def said(unet: torch.nn.Module, latent: Tensor, timestep: Tensor, prompt: str) -> Tensor:
        states = states_of(tiny_pipe, prompt)[None]
        answer: Tensor = unet(latent[None], timestep, encoder_hidden_states=states).sample[0]
        return answer

    base, student = tiny_pipe.unet, task.student.module
    erase, stay = 0.0, 0.0
    with torch.no_grad():
        for row, number in enumerate(chosen):
            z, t, pair = found.latents[row], found.timesteps[row], PAIRS[number]
            empty = said(base, z, t, "")
            safe = direction(said(base, z, t, pair.target), empty, 15.0)
            unsafe = direction(said(base, z, t, pair.source), empty, 15.0)
            for prompt in (pair.source, ""):
                erase += hinge(said(student, z, t, prompt), safe, unsafe, 0.5) / 2 / 2
        for rows in kept:
            for z, t in zip(rows.latents, rows.timesteps, strict=True):
                stay += float((said(student, z, t, "") - said(base, z, t, "")).square().mean()) / 6
    assert losses["erase"] == pytest.approx(erase, rel=1e-3)
    assert losses["stay"] == pytest.approx(stay, rel=1e-3)
    assert losses[TOTAL] == pytest.approx(erase + 100 * stay, rel=1e-3)


def test_latents_without_a_prompt_are_the_originals_and_their_targets_stage_1s(
    tiny_pipe: StableDiffusionPipeline,
) -> None:
    components = DiffusionComponents.from_pipeline(tiny_pipe)
    other = copy.deepcopy(tiny_pipe.unet)
    with torch.no_grad():
        for projection in text_projections(other):
            projection.weight.mul_(1.5)
    mapped = replace(components, unet=other)
    chosen = config()
    plain = SteeringTask(components, components, Student.of(components, "visual"), PAIRS, chosen)
    edited = SteeringTask(components, mapped, Student.of(mapped, "visual"), PAIRS, chosen)
    one, two = (task.stay.bank.draw(torch.Generator().manual_seed(4), 5) for task in (plain, edited))
    torch.testing.assert_close(one.latents, two.latents, atol=1e-5, rtol=0)
    states = TextPath(components).encode("")
    with torch.no_grad():
        expected = other(two.latents, two.timesteps, encoder_hidden_states=states.expand(5, -1, -1)).sample
    torch.testing.assert_close(two.target_conditional, expected, atol=1e-4, rtol=0)
    assert (one.target_conditional - two.target_conditional).abs().max() > 1e-3


def test_gradients_that_are_never_cleared_add_up(tiny_pipe: StableDiffusionPipeline) -> None:
    plain, summed = task_of(tiny_pipe), task_of(tiny_pipe, deviations=["summed_gradients"])
    total: dict[str, Tensor] = {}
    for step in range(3):
        for task in (plain, summed):
            for parameter in task.student.parameters.values():
                parameter.grad = None
            task.losses(StepDraws.at(0, step, batch=1))[TOTAL].backward()
        for name, parameter in plain.student.parameters.items():
            assert parameter.grad is not None
            total[name] = parameter.grad + total.get(name, 0.0)
    for name, parameter in summed.student.parameters.items():
        torch.testing.assert_close(parameter.grad, total[name])
    fresh = task_of(tiny_pipe, deviations=["summed_gradients"])
    fresh.load_state(summed.state())
    assert fresh.summed is not None
    assert all(torch.equal(fresh.summed.past[name], value) for name, value in total.items())


def test_what_clips_a_gradient_leaves_the_sum_alone(tiny_pipe: StableDiffusionPipeline) -> None:
    task = task_of(tiny_pipe, deviations=["summed_gradients"])
    task.losses(StepDraws.at(0, 0, batch=1))[TOTAL].backward()
    assert task.summed is not None
    before = {name: value.clone() for name, value in task.summed.past.items()}
    torch.nn.utils.clip_grad_norm_(task.student.parameters.values(), 1e-6)
    assert all(torch.equal(task.summed.past[name], value) for name, value in before.items())


def test_shifted_latents_are_told_a_later_step(tiny_pipe: StableDiffusionPipeline) -> None:
    asked: list[Tensor] = []
    task = task_of(tiny_pipe, deviations=["shifted_latents"])
    plain = task_of(tiny_pipe)
    hook = task.student.module.register_forward_pre_hook(lambda _, given: asked.append(given[1]))
    task.losses(StepDraws.at(0, 0, batch=1))
    hook.remove()
    draws = StepDraws.at(0, 0, batch=1)
    draws.integers(len(PAIRS))
    own = plain.latents.draw(draws, [0]).timesteps
    stays = plain.stay.bank.draw(draws.samples[0], 4).timesteps
    told = asked[0]
    assert told[:2].tolist() == [min(int(own) + 250, 999)] * 2
    for before, after in zip(stays.tolist(), told[2:].tolist(), strict=True):
        assert min(before + 250, 999) <= after <= min(before + 499, 999)


def test_what_stays_is_compared_at_the_timestep_that_is_told(tiny_pipe: StableDiffusionPipeline) -> None:
    """A student that is still stage 1 has nothing to change."""
    components = DiffusionComponents.from_pipeline(tiny_pipe)
    for deviations in ([], ["shifted_latents"]):
        student = Student.of(components, "visual")
        task = SteeringTask(components, components, student, PAIRS, config(deviations=deviations))
        losses = task.losses(StepDraws.at(0, 0, batch=1))
        assert float(losses["stay"].detach()) < 1e-9


def test_a_later_timestep_is_answered_by_stage_1_too(tiny_pipe: StableDiffusionPipeline) -> None:
    components = DiffusionComponents.from_pipeline(tiny_pipe)
    other = copy.deepcopy(tiny_pipe.unet)
    with torch.no_grad():
        for projection in text_projections(other):
            projection.weight.mul_(1.5)
    mapped = replace(components, unet=other)
    chosen = config(deviations=["shifted_latents"])
    task = SteeringTask(components, mapped, Student.of(mapped, "visual"), PAIRS, chosen)
    assert float(task.losses(StepDraws.at(0, 0, batch=1))["stay"].detach()) < 1e-9


@pytest.mark.parametrize("group", ["xattn", "full"])
def test_steering_keys_and_values_comes_on_top_of_stage_1(
    tiny_pipe: StableDiffusionPipeline, kept_file: str, group: str
) -> None:
    chosen = {"stages": "1+2", "train_method": group, "learning_rate": 1e-6, "max_train_steps": 2}
    both = train_trce(tiny_pipe, config(retain_set=kept_file, **chosen), base=BASE).edits["unet"]
    alone = train_trce(
        tiny_pipe, config(stages="1", retain_set=kept_file, edit_form="cross_attention"), base=BASE
    ).edits["unet"]
    assert isinstance(both, DeltaEdit)
    assert isinstance(alone, DeltaEdit)
    for name, delta in alone.deltas.items():
        assert (both.deltas[name] - delta).abs().max() < 1e-4
        assert delta.abs().max() > 1e-2


def test_a_group_of_the_text_encoder_is_refused() -> None:
    with pytest.raises(ConfigError, match="stage 2 steers the UNet"):
        config(stages="1+2", train_method="text_encoder_full")


@pytest.mark.parametrize("stages", ["2", "1+2"])
def test_an_artifact_holds_what_both_stages_changed(
    tiny_pipe: StableDiffusionPipeline, kept_file: str, stages: str
) -> None:
    before = {name: weight.clone() for name, weight in component_tensors(tiny_pipe.unet).items()}
    artifact = train_trce(tiny_pipe, config(stages=stages, retain_set=kept_file), base=BASE)
    edit = artifact.edits["unet"]
    assert isinstance(edit, DeltaEdit)
    kinds = {
        "attn1" if ".attn1." in name else name.rpartition("attn2.")[2].partition(".")[0]
        for name in edit.targets
    }
    assert kinds == ({"attn1", "to_q", "to_k", "to_v"} if stages == "1+2" else {"attn1", "to_q"})
    assert artifact.manifest.steps == 4
    now = component_tensors(tiny_pipe.unet)
    assert all(torch.equal(now[name], weight) for name, weight in before.items())
    if stages == "1+2":
        alone = train_trce(
            tiny_pipe, config(stages="1", retain_set=kept_file, edit_form="cross_attention"), base=BASE
        ).edits["unet"]
        assert isinstance(alone, DeltaEdit)
        assert all(torch.equal(edit.deltas[name], delta) for name, delta in alone.deltas.items())


@pytest.mark.parametrize("values", [{}, {"latents_from": "trajectory"}, {"deviations": ["summed_gradients"]}])
def test_a_stopped_run_gives_the_artifact_of_an_uninterrupted_one(
    tiny_pipe: StableDiffusionPipeline, kept_file: str, tmp_path: Path, values: dict[str, object]
) -> None:
    def stop(progress: Progress) -> None:
        if progress.phase == "train" and progress.done == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    steps = {"max_train_steps": 6, "retain_set": kept_file, **values}
    whole = train_trce(tiny_pipe, config(**steps), base=BASE).edits["unet"]
    place = {**steps, "output_dir": str(tmp_path / "artifact")}
    with pytest.raises(TrainingStopped):
        train_trce(tiny_pipe, config(**place), base=BASE, progress=stop)
    assert (tmp_path / "artifact-training" / "trajectories").is_dir() == ("latents_from" not in values)
    again = train_trce(tiny_pipe, config(**place, resume_from_checkpoint="latest"), base=BASE).edits["unet"]
    assert isinstance(whole, DeltaEdit)
    assert isinstance(again, DeltaEdit)
    assert list(whole.deltas) == list(again.deltas)
    assert all(torch.equal(whole.deltas[name], again.deltas[name]) for name in whole.deltas)


def test_a_run_does_not_go_on_with_another_first_stage(
    tiny_pipe: StableDiffusionPipeline, kept_file: str, tmp_path: Path
) -> None:
    """The settings name the retain set's file; the prompts in it may have changed since."""
    place = {"output_dir": str(tmp_path / "artifact"), "retain_set": kept_file, "checkpointing_steps": 2}
    train_trce(tiny_pipe, config(**place), base=BASE)
    Path(kept_file).write_text(Path(kept_file).read_text(encoding="utf-8") + "\na ship", encoding="utf-8")
    with pytest.raises(TrainingError, match="stage 1"):
        train_trce(tiny_pipe, config(**place, resume_from_checkpoint="latest"), base=BASE)


def test_an_update_costs_half_of_the_references(tiny_pipe: StableDiffusionPipeline) -> None:
    """13 passes in the authors' code; and of a run's latents, only those that can be drawn are sampled."""
    task = task_of(tiny_pipe)
    latents = task.evaluations
    assert (
        latents == 2 * 2 * len(PAIRS) * 2 + 2 * 4 * 2 - 2
    )  # both halves of guidance; no step after the last
    task.losses(StepDraws.at(0, 0, batch=1))
    assert task.evaluations - latents == 7


def test_a_default_run_costs_a_twentieth_of_the_references(
    tiny_pipe: StableDiffusionPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Theirs: 2,400 trajectories of 100 passes, 300 updates of 13. What the UNet answers does not count."""
    monkeypatch.setattr(UNet2DConditionModel, "forward", _formula)
    chosen = TRCEConfig.parse({"concept": ["dog"], "preset": "paper"})
    components = DiffusionComponents.from_pipeline(tiny_pipe)
    pairs = [PromptPair(f"a {letter}", "a cat", letter, "cat") for letter in "abcdefghijklmnopqrst"]
    task = SteeringTask(components, components, Student.of(components, "visual"), pairs, chosen)
    latents = task.evaluations
    assert latents == 20 * 5 * 26 * 2 + 24 * (50 + 49)
    task.losses(StepDraws.at(0, 0, batch=1))
    whole = latents + 300 * (task.evaluations - latents)
    assert whole == 9_676
    assert whole * 20 < 2_400 * 100 + 300 * 13


def _formula(
    _unet: UNet2DConditionModel, sample: Tensor, _timestep: Tensor, encoder_hidden_states: Tensor
) -> UNet2DConditionOutput:
    return UNet2DConditionOutput(
        sample=0.1 * sample + encoder_hidden_states.mean(dim=(1, 2))[:, None, None, None]
    )


def test_a_run_that_begins_anew_makes_its_latents_anew(
    tiny_pipe: StableDiffusionPipeline, kept_file: str, tmp_path: Path
) -> None:
    place = {"retain_set": kept_file, "output_dir": str(tmp_path / "artifact")}
    train_trce(tiny_pipe, config(**place), base=BASE)
    with pytest.raises(TrainingError, match="holds checkpoints of an earlier run"):
        train_trce(tiny_pipe, config(**place, seed=1), base=BASE)
    again = train_trce(tiny_pipe, config(**place, seed=1, overwrite=True), base=BASE).edits["unet"]
    fresh = train_trce(tiny_pipe, config(retain_set=kept_file, seed=1), base=BASE).edits["unet"]
    assert isinstance(again, DeltaEdit)
    assert isinstance(fresh, DeltaEdit)
    assert all(torch.equal(again.deltas[name], fresh.deltas[name]) for name in fresh.deltas)
