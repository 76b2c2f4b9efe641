"""ESD on the tiny pipeline: the formula, what is trained and by whom, and the way to an artifact."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from diffusers_erasure.artifacts.edits import DeltaEdit, apply_edit
from diffusers_erasure.artifacts.manifest import BaseModelRef
from diffusers_erasure.artifacts.tensors import component_tensors
from diffusers_erasure.diffusion import DiffusionComponents
from diffusers_erasure.errors import ConfigError, TrainingError
from diffusers_erasure.training.concept_prompts import ScopedPrompt, concept_prompts
from diffusers_erasure.training.draws import StepDraws
from diffusers_erasure.training.esd import train_esd
from diffusers_erasure.training.esd_settings import ESDConfig
from diffusers_erasure.training.esd_task import ESDTask
from diffusers_erasure.training.losses import esd_target, noise_loss, weighted_losses
from diffusers_erasure.training.stopping import TrainingStopped
from diffusers_erasure.training.student import Student
from tests.reference.esd import code_target, loss, paper_target, sample_until

BASE = BaseModelRef(id="tiny")
FLOATS = st.floats(-5, 5, width=32)


def config(**values: object) -> ESDConfig:
    """A run of seconds."""
    defaults: dict[str, object] = {
        "concept": ["dog"],
        "preset": "paper",
        "max_train_steps": 3,
        "learning_rate": 1e-3,
        "num_inference_steps": 4,
        "pool_trajectories": 2,
    }
    return ESDConfig.parse(defaults | values)


def task_of(pipe: StableDiffusionPipeline, **values: object) -> ESDTask:
    chosen = config(**values)
    components = DiffusionComponents.from_pipeline(pipe)
    student = Student.of(
        components, chosen.train_method, gradient_checkpointing=chosen.gradient_checkpointing
    )
    return ESDTask(components, student, [ScopedPrompt("dog"), ScopedPrompt("owl")], chosen)


def test_trajectories_that_serve_once_are_made_one_at_a_time(tiny_pipe: StableDiffusionPipeline) -> None:
    task = task_of(tiny_pipe, latents_from="trajectory", pool_trajectories=2)
    task.losses(StepDraws.at(0, 0, batch=1))
    assert len(task.latents.bank) == 4 - 1, "the rest of one trajectory: pool_trajectories is of pools"


@settings(max_examples=50, deadline=None)
@given(concept=FLOATS, empty=FLOATS, scope=st.none() | FLOATS, eta=st.floats(0, 5))
def test_both_targets_are_the_formulas(concept: float, empty: float, scope: float | None, eta: float) -> None:
    c, e = torch.tensor(concept), torch.tensor(empty)
    s = None if scope is None else torch.tensor(scope)
    for rule, reference in (("paper", paper_target), ("code", code_target)):
        found = float(esd_target(c, e, eta, scope=s, rule=rule))  # type: ignore[arg-type]
        assert found == pytest.approx(reference(concept, empty, eta, scope), abs=1e-3)


def test_the_codes_target_is_the_papers_with_one_more_eta() -> None:
    concept, empty = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    torch.testing.assert_close(
        esd_target(concept, empty, 1.5), esd_target(concept, empty, 2.5, rule="code"), atol=1e-5, rtol=1e-5
    )


def test_named_losses_add_up_by_weight() -> None:
    terms = {"erase": torch.tensor(2.0), "retain": torch.tensor(3.0)}
    assert weighted_losses(terms, {"retain": 0.5})["loss"] == 3.5
    for broken in ({"loss": torch.tensor(1.0)}, {}):
        with pytest.raises(TrainingError, match="do not go with weights"):
            weighted_losses(broken)
    with pytest.raises(TrainingError, match=r"weights for \['retian'\]"):
        weighted_losses(terms, {"retian": 1.0})


def test_a_loss_of_half_precision_is_taken_in_full() -> None:
    zeros = torch.zeros(1, 1, 2, 2, dtype=torch.float16)
    assert float(noise_loss(zeros + 1e-4, zeros)) == pytest.approx(1e-8, rel=1e-2)


def test_a_text_encoder_in_training_samples_no_latents(tiny_pipe: StableDiffusionPipeline) -> None:
    with pytest.raises(ConfigError, match="expected frozen, trajectory or pool"):
        task_of(tiny_pipe, train_method="text_encoder_full", latents_from="student")


@pytest.mark.parametrize("latents_from", ["student", "frozen"])
def test_the_loss_is_the_papers_for_latents_of_who_samples(
    tiny_pipe: StableDiffusionPipeline, latents_from: str
) -> None:
    task = task_of(tiny_pipe, latents_from=latents_from, negative_guidance=1.5)
    with torch.no_grad():
        for weight in task.student.parameters.values():
            weight.mul_(1.3)
    draws = StepDraws.at(5, 2, batch=2)
    found = task.losses(draws)["loss"]

    def predictor(unet: torch.nn.Module) -> Callable[[Tensor, int, str], Tensor]:
        def predict(latent: Tensor, timestep: int, prompt: str) -> Tensor:
            ids = tiny_pipe.tokenizer(prompt, padding="max_length", return_tensors="pt").input_ids
            states = tiny_pipe.text_encoder(ids)[0].detach()
            return unet(latent[None], timestep, encoder_hidden_states=states).sample[0]

        return predict

    teacher, student = predictor(tiny_pipe.unet), predictor(task.student.module)
    alphas = tiny_pipe.scheduler.alphas_cumprod.tolist()
    again, total = StepDraws.at(5, 2, batch=2), torch.zeros(())
    prompts, stops = again.integers(2), again.integers(4)
    starts = again.normal(4, 8, 8)
    for prompt, stop, start in zip(prompts, stops, starts, strict=True):
        name, grid = ("dog", "owl")[prompt], [751, 501, 251, 1]
        passed = grid[: 4 - stop]
        who = student if latents_from == "student" else teacher
        with torch.no_grad():
            latent = sample_until(who, start, name, passed, alphas, 3.0)
        total = total + loss(student, teacher, [latent], [passed[-1]], name, 1.5) / 2
    torch.testing.assert_close(found, total, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("rule", ["paper", "code"])
def test_a_scope_takes_the_place_that_the_rule_gives_it(
    tiny_pipe: StableDiffusionPipeline, rule: str
) -> None:
    task = task_of(tiny_pipe, target_rule=rule, scope="animal", latents_from="frozen")
    draws = StepDraws.at(0, 0, batch=3)
    chosen = draws.integers(2)
    rows = [0] * 3 if rule == "code" else list(chosen)
    drawn = task.latents.draw(draws, rows)
    states = {name: task.text.encode(name) for name in ("dog", "owl", "animal", "")}

    def said(names: list[str]) -> Tensor:
        return task.teacher(drawn.latents, drawn.timesteps, torch.cat([states[name] for name in names]))

    words = [("dog", "owl")[number] for number in chosen]
    with torch.no_grad():
        concept, scope, empty = said(words), said(["animal"] * 3), said([""] * 3)
        asked = ["animal"] * 3 if rule == "code" else words
        target = esd_target(concept, empty, 1.0, scope=scope, rule=rule)  # type: ignore[arg-type]
        expected = noise_loss(said(asked), target)  # an untrained student is the teacher
        found = task.losses(StepDraws.at(0, 0, batch=3))["loss"]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


def test_a_style_is_erased_from_the_subjects_that_it_is_worded_with() -> None:
    found = concept_prompts(config(concept=["ink"], preset="embedded"), world="embedded")
    assert ScopedPrompt("a dog, ink style", "a dog") in found
    assert all(one.scope and one.scope in one.prompt for one in found)
    code = config(concept=["ink"], preset="code", num_templates=4)
    assert {one.scope for one in concept_prompts(code, world="embedded", scoped=False)} == {""}


def test_objects_and_members_of_a_theme_are_erased_from_everything() -> None:
    for concept in ("dog", "weapons"):
        found = concept_prompts(config(concept=[concept], preset="embedded"), world="embedded")
        assert len(found) > 4
        assert {one.scope for one in found} == {""}


def test_each_prompt_has_its_own_scope(tiny_pipe: StableDiffusionPipeline) -> None:
    """The target moves away from the concept as seen from the prompt's subject; "" is the empty prompt."""
    chosen = config(negative_guidance=1.5, latents_from="frozen")
    components = DiffusionComponents.from_pipeline(tiny_pipe)
    student = Student.of(components, chosen.train_method)
    prompts = [ScopedPrompt("dog owl", "owl"), ScopedPrompt("owl")]
    task = ESDTask(components, student, prompts, chosen)
    draws = StepDraws.at(0, 0, batch=6)
    rows = list(draws.integers(2))
    assert set(rows) == {0, 1}
    drawn = task.latents.draw(draws, rows)

    def said(names: list[str]) -> Tensor:
        return task.teacher(drawn.latents, drawn.timesteps, task.text.encode(names))

    with torch.no_grad():
        concept = said([prompts[row].prompt for row in rows])
        origin = said([prompts[row].scope for row in rows])
        expected = noise_loss(
            concept, origin - 1.5 * (concept - origin)
        )  # an untrained student is the teacher
        found = task.losses(StepDraws.at(0, 0, batch=6))["loss"]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


def test_a_pool_gives_the_text_encoder_the_frozen_models_latents(tiny_pipe: StableDiffusionPipeline) -> None:
    task = task_of(tiny_pipe, train_method="text_encoder_full")
    sampled = task.latents.bank.evaluations
    losses = task.losses(StepDraws.at(0, 0, batch=3))
    assert task.pupil.evaluations == 3
    assert (task.latents.bank.evaluations, task.teacher.evaluations) == (sampled, 0), "all from the pool"
    losses["loss"].backward()
    assert all(p.grad is not None for p in task.student.parameters.values())
    assert all(p.grad is None for p in tiny_pipe.unet.parameters())


@pytest.mark.parametrize(
    ("method", "component", "touched", "left"),
    [
        ("esd-x", "unet", "attn2", "attn1"),
        ("esd-u", "unet", "attn1", "attn2"),
        ("text_encoder_full", "text_encoder", "encoder.layers.1", "embeddings"),
        ("text_encoder_layer0", "text_encoder", "encoder.layers.0", "encoder.layers.1"),
    ],
)
def test_the_artifact_holds_what_was_trained_and_nothing_else(
    tiny_pipe: StableDiffusionPipeline, method: str, component: str, touched: str, left: str
) -> None:
    before = {part: copy.deepcopy(getattr(tiny_pipe, part).state_dict()) for part in ("unet", "text_encoder")}
    artifact = train_esd(tiny_pipe, config(train_method=method), base=BASE)
    assert list(artifact.edits) == [component]
    edit = artifact.edits[component]
    assert isinstance(edit, DeltaEdit)
    assert any(touched in name for name in edit.targets)
    assert not any(left in name for name in edit.targets)
    assert artifact.manifest.steps == 3
    assert artifact.manifest.settings["negative_guidance"].value == 1.0
    for part, weights in before.items():
        now = getattr(tiny_pipe, part).state_dict()
        assert all(torch.equal(now[name], weight) for name, weight in weights.items())
        assert all(parameter.requires_grad for parameter in getattr(tiny_pipe, part).parameters())


def test_base_and_delta_give_what_was_trained(tiny_pipe: StableDiffusionPipeline) -> None:
    components = DiffusionComponents.from_pipeline(tiny_pipe)
    student = Student.of(components, "esd-x")
    with torch.no_grad():
        for weight in student.parameters.values():
            weight.add_(0.01 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
    base = component_tensors(tiny_pipe.unet)
    for stored, tolerance in (("float32", 1e-7), ("bfloat16", 1e-4)):
        edit = student.edit(stored)  # type: ignore[arg-type]
        for name, weight in student.parameters.items():
            edited = apply_edit(base[name], [(edit, 1.0)], name=name)
            torch.testing.assert_close(edited, weight.detach(), atol=tolerance, rtol=0)


def test_a_stopped_run_gives_the_artifact_of_an_uninterrupted_one(
    tiny_pipe: StableDiffusionPipeline, tmp_path: Path
) -> None:
    import os
    import signal

    from diffusers_erasure.training import Progress

    def stop(progress: Progress) -> None:
        if progress.phase == "train" and progress.done == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    for method in ("esd-x", "text_encoder_layer0"):
        whole = train_esd(tiny_pipe, config(train_method=method, max_train_steps=5), base=BASE)
        place = {"output_dir": str(tmp_path / method), "train_method": method, "max_train_steps": 5}
        with pytest.raises(TrainingStopped) as stopped:
            train_esd(tiny_pipe, config(**place), base=BASE, progress=stop)
        assert stopped.value.code == 143
        again = train_esd(tiny_pipe, config(**place, resume_from_checkpoint="latest"), base=BASE)
        (component,) = whole.edits
        expected, found = whole.edits[component].tensors, again.edits[component].tensors
        assert all(torch.equal(found[name], value) for name, value in expected.items())
    other = config(**place, concept=["cat"], resume_from_checkpoint="latest")
    with pytest.raises(TrainingError, match=r"concept was \['dog'\], now \['cat'\]"):
        train_esd(tiny_pipe, other, base=BASE)


def test_another_base_model_is_refused_on_resuming(
    tiny_pipe: StableDiffusionPipeline, make_tiny_pipe: Callable[..., StableDiffusionPipeline], tmp_path: Path
) -> None:
    place = {"output_dir": str(tmp_path / "dog"), "latents_from": "frozen"}
    train_esd(tiny_pipe, config(**place), base=BASE)
    with pytest.raises(TrainingError, match="base unet was"):
        train_esd(make_tiny_pipe(seed=1), config(**place, resume_from_checkpoint="latest"), base=BASE)


def test_gradient_checkpointing_changes_no_gradient(tiny_pipe: StableDiffusionPipeline) -> None:
    for method in ("esd-x", "text_encoder_full"):
        plain = train_esd(tiny_pipe, config(train_method=method, max_train_steps=1), base=BASE)
        spared = train_esd(
            tiny_pipe, config(train_method=method, max_train_steps=1, gradient_checkpointing=True), base=BASE
        )
        (component,) = plain.edits
        for name, value in plain.edits[component].tensors.items():
            torch.testing.assert_close(spared.edits[component].tensors[name], value, atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("method", ["esd-x", "text_encoder_full"])
def test_gradient_checkpointing_keeps_less_for_the_backward_pass(
    tiny_pipe: StableDiffusionPipeline, method: str
) -> None:
    sizes = []
    for spared in (False, True):
        task = task_of(tiny_pipe, train_method=method, latents_from="frozen", gradient_checkpointing=spared)
        kept: list[int] = []

        def keep(tensor: Tensor, kept: list[int] = kept) -> Tensor:
            kept.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            task.losses(StepDraws.at(0, 0, batch=4))
        sizes.append(sum(kept))
    assert sizes[1] < sizes[0]


def test_pictures_are_drawn_during_training(tiny_pipe: StableDiffusionPipeline, tmp_path: Path) -> None:
    values = {
        "output_dir": str(tmp_path / "dog"),
        "validation_prompt": ["a dog", "owl"],
        "validation_steps": 2,
    }
    train_esd(tiny_pipe, config(**values, num_validation_images=1), base=BASE)
    drawn = sorted(path.name for path in (tmp_path / "dog-training" / "samples").iterdir())
    assert drawn == ["step-000002.png", "step-000003.png"]


def test_v_prediction_trains_too(tiny_pipe: StableDiffusionPipeline) -> None:
    tiny_pipe.scheduler.register_to_config(prediction_type="v_prediction")
    artifact = train_esd(tiny_pipe, config(max_train_steps=1), base=BASE)
    assert artifact.edits["unet"].targets


def test_presets_are_defaults_that_flags_override() -> None:
    paper, code = config(preset="paper"), ESDConfig.parse({"concept": ["dog"], "preset": "code"})
    assert (paper.negative_guidance, paper.target_rule, paper.latents_from) == (1.0, "paper", None)
    assert (code.max_train_steps, code.learning_rate, code.negative_guidance) == (200, 5e-5, 2.0)
    assert (code.target_rule, code.latents_from) == ("code", "frozen")
    own = ESDConfig.parse({"concept": ["dog"], "preset": "code", "max_train_steps": 7})
    assert own.max_train_steps == 7
    plain = ESDConfig.parse({"concept": ["dog"], "pretrained_model_name_or_path": "some/model"})
    assert (plain.preset, plain.max_train_steps, plain.learning_rate) == ("paper", 1000, 1e-5)
    assert (plain.guidance_scale, plain.num_inference_steps, plain.train_batch_size) == (3.0, 50, 1)
    assert ESDConfig(concept=("dog",)).preset == "embedded"
    assert ESDConfig.model_validate_json(own.model_dump_json()) == own
    with pytest.raises(ConfigError, match=r"no preset 'papre'; known presets are auto, paper .*'paper'"):
        ESDConfig.parse({"concept": ["dog"], "preset": "papre"})


def test_a_change_that_rounds_to_nothing_is_refused(tiny_pipe: StableDiffusionPipeline) -> None:
    with pytest.raises(ConfigError, match=r"changed none of .* weights of the unet.*raise the learning rate"):
        train_esd(tiny_pipe, config(learning_rate=1e-20, max_train_steps=1), base=BASE)
