"""AdvUnlearn on the tiny pipeline: both levels against the paper's text, what is trained, what it costs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput

from diffusers_erasure.artifacts.edits import DeltaEdit
from diffusers_erasure.artifacts.manifest import BaseModelRef
from diffusers_erasure.artifacts.tensors import component_tensors
from diffusers_erasure.concepts import resolve_concepts
from diffusers_erasure.diffusion import DiffusionComponents
from diffusers_erasure.errors import ConfigError
from diffusers_erasure.evaluation.splits import training_prompts
from diffusers_erasure.training import Progress
from diffusers_erasure.training.advunlearn import train_advunlearn
from diffusers_erasure.training.advunlearn_settings import DEVIATIONS, AdvUnlearnConfig
from diffusers_erasure.training.advunlearn_task import AdvUnlearnTask
from diffusers_erasure.training.concept_prompts import ScopedPrompt
from diffusers_erasure.training.draws import StepDraws
from diffusers_erasure.training.latents import BankReport
from diffusers_erasure.training.losses import TOTAL
from diffusers_erasure.training.stopping import TrainingStopped
from diffusers_erasure.training.student import Student
from tests.reference.advunlearn import gradients, literal_upper_loss
from tests.reference.soft_prompt import literal_soft_prompt

BASE = BaseModelRef(id="tiny")
SMALL: dict[str, object] = {
    "concept": ["dog"],
    "preset": "object",
    "max_train_steps": 4,
    "learning_rate": 1e-3,
    "attack_steps": 3,
    "num_inference_steps": 4,
    "pool_trajectories": 2,
    "max_retain_prompts": 8,
    "retain_pairs": 2,
}


def config(**values: object) -> AdvUnlearnConfig:
    """A run of seconds."""
    return AdvUnlearnConfig.parse(SMALL | values)


def task_of(
    pipe: StableDiffusionPipeline,
    *,
    prompts: tuple[str, ...] = ("dog", "owl"),
    progress: BankReport | None = None,
    **values: object,
) -> AdvUnlearnTask:
    chosen = config(**values)
    components = DiffusionComponents.from_pipeline(pipe)
    student = Student.of(components, chosen.train_method, part=chosen.train_part)
    scoped = [ScopedPrompt(one) for one in prompts]
    return AdvUnlearnTask(components, student, scoped, chosen, world="general", progress=progress)


def test_defaults_and_presets_are_the_papers() -> None:
    nudity = AdvUnlearnConfig.parse({"concept": ["nudity"], "preset": "nudity"})
    paper = {
        "max_train_steps": 1000,
        "learning_rate": 1e-5,
        "optimizer": "adam",
        "train_method": "text_encoder_full",
        "retain_mode": "reg",
        "retain_weight": 0.3,
        "retain_batch_size": 5,
        "max_retain_prompts": 243,
        "attack_steps": 30,
        "attack_learning_rate": 1e-3,
        "attack_tokens": 1,
        "attack_placement": "prefix",
        "attack_init": "random",
        "attack_every": 1,
        "adversary_warmup_steps": 0,
        "negative_guidance": 1.0,
        "num_inference_steps": 50,
        "guidance_scale": 3.0,
        "deviations": (),
    }
    assert {name: getattr(nudity, name) for name in paper} == paper
    for preset in ("object", "style"):
        chosen = AdvUnlearnConfig.parse({"concept": ["x"], "preset": preset})
        assert (chosen.train_method, chosen.retain_weight) == ("text_encoder_layer0", 0.5)
    fast = AdvUnlearnConfig.parse({"concept": ["x"], "preset": "fast"})
    assert (fast.attack_steps, fast.attack_rule) == (1, "sign")
    code = AdvUnlearnConfig.parse({"concept": ["x"], "preset": "reference"})
    assert (code.deviations, code.adversary_warmup_steps, code.alignment) == (DEVIATIONS, 200, "compvis")


@pytest.mark.parametrize(
    ("told", "preset"),
    [
        ({"concept": ["x"]}, "object"),
        ({"concept": ["x"], "concept_kind": "style"}, "style"),
        ({"concept": ["gun", "Nudity "]}, "nudity"),
        ({"concept": ["x"], "concept_kind": "theme"}, "object"),
        ({"concept": ["fast"]}, "object"),
        ({"concept": ["nudity"], "preset": "fast"}, "fast"),
    ],
)
def test_auto_goes_by_the_concept_on_other_bases(told: dict[str, object], preset: str) -> None:
    base = {"pretrained_model_name_or_path": "org/model"}
    chosen = AdvUnlearnConfig.parse({**told, **base})
    assert chosen.preset == preset
    assert chosen.train_method == AdvUnlearnConfig.parse({**told, **base, "preset": preset}).train_method
    assert AdvUnlearnConfig.parse({**told, "preset": "auto"}).preset == "embedded"


@pytest.mark.parametrize("rule", ["adam", "sign"])
def test_both_levels_are_the_papers(tiny_pipe: StableDiffusionPipeline, rule: str) -> None:
    """The banked, batched step has the adversary and the gradients of the literal one at the same draws."""
    task = task_of(tiny_pipe, attack_rule=rule, train_batch_size=2, retain_weight=0.7)
    with torch.no_grad():
        for weight in task.student.parameters.values():  # a student that is not the original any more
            weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    draws = StepDraws.at(3, 5, batch=2)
    asked = task.adversary.ask(draws, 5)
    soft = task.adversary.soft[asked.number]

    shared = StepDraws.at(3, 5, batch=2).shared
    number = int(torch.randint(2, (), generator=shared))
    start = _random_start(task, shared)
    searched = task.erasing.bank.draw(shared, 3, prompts=[number] * 3)
    rows = [
        (searched.latents[i : i + 1], searched.timesteps[i : i + 1], searched.target_conditional[i : i + 1])
        for i in range(3)
    ]
    student = DiffusionComponents.from_pipeline(tiny_pipe)
    literal = literal_soft_prompt(
        _with_encoder(student, task), soft.ids, soft.positions, start[0], rows, learning_rate=1e-3, rule=rule
    )
    assert asked.number == number
    found = asked.embeddings[0, list(soft.positions)]
    torch.testing.assert_close(found, literal, atol=2e-5, rtol=0)

    losses = task.losses(draws)
    again = StepDraws.at(3, 5, batch=2)
    erase = task.erasing.draw(again, [number] * 2)
    kept = task.retention.draw(again) if task.retention else None
    assert kept is not None
    assert len(kept.latents) == 10
    expected = literal_upper_loss(
        task.components,
        task.student.module,
        asked.embeddings[0],
        asked.ids[0],
        task.prompts[number],
        [(erase.latents[i : i + 1], erase.timesteps[i : i + 1]) for i in range(2)],
        [
            (task.retention.bank.prompts[place], kept.latents[i : i + 1], kept.timesteps[i : i + 1])
            for i, place in enumerate(kept.prompt_index.tolist())
        ]
        if task.retention
        else [],
        eta=1.0,
        gamma=0.7,
    )
    torch.testing.assert_close(losses[TOTAL], expected, atol=1e-5, rtol=1e-4)
    ours = gradients(losses[TOTAL], task.student.parameters)
    theirs = gradients(expected, task.student.parameters)
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, atol=1e-5, rtol=0)
    assert max(float(one.abs().max()) for one in theirs.values()) > 1e-4


def _random_start(task: AdvUnlearnTask, generator: torch.Generator) -> torch.Tensor:
    from diffusers_erasure.attacks.soft_prompt import random_embeddings

    return random_embeddings(task.text, 1, 1, generator)


def _with_encoder(components: DiffusionComponents, task: AdvUnlearnTask) -> object:
    """The original's UNet behind the student's encoder."""
    from types import SimpleNamespace

    return SimpleNamespace(unet=components.unet, text_encoder=task.student.module)


def test_the_unet_gets_no_gradient(tiny_pipe: StableDiffusionPipeline) -> None:
    task = task_of(tiny_pipe)
    task.losses(StepDraws.at(0, 0, batch=1))[TOTAL].backward()
    assert all(weight.grad is None for weight in task.pupil.unet.parameters())
    assert all(weight.grad is None for weight in tiny_pipe.unet.parameters())
    assert all(weight.grad is not None for weight in task.student.parameters.values())


def test_a_batch_in_two_parts_is_the_same_batch(tiny_pipe: StableDiffusionPipeline) -> None:
    """Passes and processes of a step share the adversarial prompt and split the samples."""
    task = task_of(tiny_pipe)
    whole = task.losses(StepDraws.at(0, 1, batch=2))
    parts = []
    for first in range(2):
        other = task_of(tiny_pipe)
        parts.append(other.losses(StepDraws.at(0, 1, batch=1, first=first)))
    for name in whole:
        mean = torch.stack([part[name] for part in parts]).mean()
        torch.testing.assert_close(whole[name], mean, atol=1e-6, rtol=1e-4)


def test_retain_steps_of_their_own_take_turns(tiny_pipe: StableDiffusionPipeline) -> None:
    task = task_of(tiny_pipe, retain_mode="iter", retain_steps=2, max_train_steps=6)
    terms = [set(task.losses(StepDraws.at(0, step, batch=1))) for step in range(6)]
    erase, retain = {TOTAL, "erase", "attack"}, {TOTAL, "retain"}
    assert terms == [erase, retain, retain] * 2


def test_without_retain_set_there_is_only_erasing(tiny_pipe: StableDiffusionPipeline) -> None:
    values = {name: value for name, value in SMALL.items() if "retain" not in name}
    chosen = AdvUnlearnConfig.parse({**values, "retain_mode": "none", "attack_steps": 0})
    components = DiffusionComponents.from_pipeline(tiny_pipe)
    student = Student.of(components, chosen.train_method)
    task = AdvUnlearnTask(components, student, [ScopedPrompt("dog")], chosen, world="general")
    assert set(task.losses(StepDraws.at(0, 0, batch=1))) == {TOTAL, "erase"}
    assert task.retention is None


def test_each_prompt_has_its_own_scope(tiny_pipe: StableDiffusionPipeline) -> None:
    """A student that is still the original, asked plainly: its loss is the target's distance."""
    values = {name: value for name, value in SMALL.items() if "retain" not in name}
    chosen = AdvUnlearnConfig.parse({**values, "retain_mode": "none", "attack_steps": 0})
    components = DiffusionComponents.from_pipeline(tiny_pipe)
    prompts = [ScopedPrompt("dog", "owl"), ScopedPrompt("owl", "red cat")]
    student = Student.of(components, chosen.train_method)
    task = AdvUnlearnTask(components, student, prompts, chosen, world="general")
    seen = set()
    for step in range(6):
        number = int(torch.randint(2, (), generator=StepDraws.at(0, step, batch=2).shared))
        seen.add(number)
        loss = task.losses(StepDraws.at(0, step, batch=2))[TOTAL]
        found = task.erasing.draw(StepDraws.at(0, step, batch=2), [number] * 2)
        states = task.base_text.encode([prompts[number].prompt, prompts[number].scope])
        with torch.no_grad():
            concept, origin = (
                task.teacher(found.latents, found.timesteps, one.expand(2, -1, -1)) for one in states
            )
            expected = (concept - (origin - (concept - origin))).square().mean()
        assert float(loss.detach()) == pytest.approx(float(expected), rel=1e-4)
    assert seen == {0, 1}


def test_what_is_retained_never_says_the_concept(tiny_pipe: StableDiffusionPipeline) -> None:
    task = task_of(tiny_pipe, retain_exclude=["chair"], retain_empty=True, max_retain_prompts=None)
    assert task.retention is not None
    said = " ".join(task.retention.prompts)
    assert "" in task.retention.prompts
    assert "dog" not in said.split()
    assert "chair" not in said.split()
    drawn = task.retention.draw(StepDraws.at(0, 0, batch=1)).prompt_index.tolist()
    assert len(set(drawn)) == 5


def test_one_retain_bank_serves_every_concept(tiny_pipe: StableDiffusionPipeline, tmp_path: Path) -> None:
    own = tmp_path / "prompts.txt"
    own.write_text("a dog\nan owl\na red chair\na blue chair\na gray chair")
    place = {"retain_bank": str(tmp_path / "bank"), "retain_set": str(own), "retain_batch_size": 3}
    first = task_of(tiny_pipe, **place)
    second = task_of(tiny_pipe, concept=["owl"], seed=1, **place)
    assert first.retention is not None
    assert second.retention is not None
    assert first.retention.bank.evaluations > 0
    assert second.retention.bank.evaluations == 0
    assert set(first.retention.prompts) ^ set(second.retention.prompts) == {"a dog", "an owl"}
    for task in (first, second):
        assert task.retention is not None
        seen = {
            n
            for s in range(30)
            for n in task.retention.draw(StepDraws.at(0, s, batch=1)).prompt_index.tolist()
        }
        assert {task.retention.bank.prompts[n] for n in seen} == set(task.retention.prompts)


def test_a_bank_of_another_retain_set_is_refused_before_any_latents(
    tiny_pipe: StableDiffusionPipeline, tmp_path: Path
) -> None:
    place = {"retain_bank": str(tmp_path / "bank"), "retain_batch_size": 3}
    for name in ("one", "other"):
        (tmp_path / f"{name}.txt").write_text(f"a red chair\na blue chair\n{name} chair")
    told: list[str] = []
    task_of(tiny_pipe, retain_set=str(tmp_path / "one.txt"), **place)
    with pytest.raises(ConfigError, match="bank was made from another prompts"):
        task_of(
            tiny_pipe,
            retain_set=str(tmp_path / "other.txt"),
            progress=lambda what, *_: told.append(what),
            **place,
        )
    assert not told


def test_an_artifact_says_what_a_file_of_ones_own_retained(
    tiny_pipe: StableDiffusionPipeline, tmp_path: Path
) -> None:
    """A path says nothing to others, and a test split must be compared with what was trained on."""
    own = tmp_path / "prompts.txt"
    own.write_text("a dog\na red chair\na blue chair")
    values = {"retain_set": str(own), "retain_batch_size": 2, "max_train_steps": 1}
    settings = train_advunlearn(tiny_pipe, config(**values), base=BASE).manifest.settings
    assert settings["retain_set"].value == ["a red chair", "a blue chair"]
    assert "a red chair" in training_prompts(tuple(resolve_concepts(["dog"])), settings)
    assert str(tmp_path) not in str(settings)


def test_a_retain_set_smaller_than_a_batch_is_refused(tiny_pipe: StableDiffusionPipeline) -> None:
    with pytest.raises(ConfigError, match="has 4 prompts left; expected at least the 5 of a batch"):
        task_of(tiny_pipe, max_retain_prompts=4)


def test_an_adversary_that_never_begins_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"begin after 4 iterations.*lower adversary_warmup_steps"):
        config(adversary_warmup_steps=4)


@pytest.mark.parametrize(
    ("method", "component", "touched", "left"),
    [
        ("text_encoder_layer0", "text_encoder", "layers.0.", "layers.1."),
        ("text_encoder_full", "text_encoder", "final_layer_norm", "embeddings"),
        ("xattn", "unet", "attn2", "attn1"),
    ],
)
def test_an_artifact_holds_what_was_trained(
    tiny_pipe: StableDiffusionPipeline, method: str, component: str, touched: str, left: str
) -> None:
    before = {
        part: {name: weight.clone() for name, weight in component_tensors(getattr(tiny_pipe, part)).items()}
        for part in ("unet", "text_encoder")
    }
    artifact = train_advunlearn(tiny_pipe, config(train_method=method), base=BASE)
    (edit,) = artifact.edits.values()
    assert list(artifact.edits) == [component]
    assert isinstance(edit, DeltaEdit)
    assert any(touched in name for name in edit.targets)
    assert not any(left in name for name in edit.targets)
    assert artifact.manifest.method == "advunlearn"
    assert artifact.manifest.settings["attack_steps"].value == 3
    for part, weights in before.items():
        now = component_tensors(getattr(tiny_pipe, part))
        assert all(torch.equal(now[name], weight) for name, weight in weights.items())


@pytest.mark.parametrize(
    "values",
    [
        {"attack_init": "latest", "attack_every": 2},
        {"latents_from": "trajectory"},
        {"retain_mode": "iter"},
    ],
)
def test_a_stopped_run_gives_the_artifact_of_an_uninterrupted_one(
    tiny_pipe: StableDiffusionPipeline, tmp_path: Path, values: dict[str, object]
) -> None:
    import os
    import signal

    def stop(progress: Progress) -> None:
        if progress.phase == "train" and progress.done == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    steps = {"max_train_steps": 6, **values}
    whole = train_advunlearn(tiny_pipe, config(**steps), base=BASE)
    place = {**steps, "output_dir": str(tmp_path / "artifact")}
    with pytest.raises(TrainingStopped):
        train_advunlearn(tiny_pipe, config(**place), base=BASE, progress=stop)
    again = train_advunlearn(tiny_pipe, config(**place, resume_from_checkpoint="latest"), base=BASE)
    one, two = whole.edits["text_encoder"], again.edits["text_encoder"]
    assert isinstance(one, DeltaEdit)
    assert isinstance(two, DeltaEdit)
    assert list(one.deltas) == list(two.deltas)
    assert all(torch.equal(one.deltas[name], two.deltas[name]) for name in one.deltas)


def test_an_iteration_costs_a_twentieth_of_the_references(
    tiny_pipe: StableDiffusionPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the paper's defaults, the pools of 1000 iterations included; a backward pass counts 0.97 forward.

    The UNet's answers play no part in the count, so a formula stands in for it.
    """
    monkeypatch.setattr(UNet2DConditionModel, "forward", _formula)
    values = {"attack_steps": 30, "num_inference_steps": 50, "pool_trajectories": 32}
    task = task_of(tiny_pipe, prompts=("dog",), max_retain_prompts=243, retain_pairs=10, **values)
    pools = task.evaluations
    task.losses(StepDraws.at(0, 0, batch=1))
    passes = task.evaluations - pools
    assert passes == 36
    assert passes * 1.97 + pools / 1000 <= 105


def _formula(
    _unet: UNet2DConditionModel,
    sample: torch.Tensor,
    _timestep: torch.Tensor,
    encoder_hidden_states: torch.Tensor,
) -> UNet2DConditionOutput:
    return UNet2DConditionOutput(
        sample=0.1 * sample + encoder_hidden_states.mean(dim=(1, 2))[:, None, None, None]
    )
