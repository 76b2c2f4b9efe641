"""AEGIS on the tiny pipeline: searches and loss against the paper's text, and what a step touches."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor, nn

from benchmarks.live_bytes import LiveBytes
from diffusers_erasure.artifacts.edits import DeltaEdit
from diffusers_erasure.artifacts.tensors import component_tensors
from diffusers_erasure.diffusion import DiffusionComponents, TextPath, partial_sample
from diffusers_erasure.errors import ConfigError
from diffusers_erasure.training import Progress
from diffusers_erasure.training.aegis import train_aegis
from diffusers_erasure.training.aegis_settings import AEGISConfig
from diffusers_erasure.training.aegis_step import AEGISStep
from diffusers_erasure.training.aegis_task import AEGISTask
from diffusers_erasure.training.concept_prompts import ScopedPrompt
from diffusers_erasure.training.draws import StepDraws
from diffusers_erasure.training.losses import TOTAL
from diffusers_erasure.training.stopping import TrainingStopped
from diffusers_erasure.training.student import Student
from tests.reference.aegis import erasing_loss, signed_steps

from .aegis_runs import BASE, config, task_of


def test_presets_are_the_papers_and_the_commands() -> None:
    paper = AEGISConfig.parse({"concept": ["x"], "preset": "paper"})
    published = {
        "train_method": "full",
        "max_train_steps": 1000,
        "learning_rate": 1e-5,
        "optimizer": "adam",
        "train_batch_size": 1,
        "negative_guidance": 1.0,
        "guidance_scale": 3.0,
        "num_inference_steps": 50,
        "target_tokens": 1,
        "attack_tokens": 1,
        "attack_steps": 1,
        "attack_every": 1,
        "attack_learning_rate": 1e-3,
        "attack_init": "latest",
        "attack_ball": None,
        "attack_placement": "prefix",
        "omega_rule": "paper",
        "omega": 0.0,
        "omega_step": 0.1,
        "omega_max": 1.0,
        "sampled_for": "aet",
        "retain_mode": "projection",
        "rectify": "before",
        "projection_scope": "tensor",
        "alignment": "aligned",
    }
    assert {name: getattr(paper, name) for name in published} == published
    assert paper.source_of_latents(trains_unet=True) == "student"
    released = AEGISConfig.parse({"concept": ["x"], "preset": "released"})
    assert (released.attack_init, released.omega_rule, released.memory) == ("random", "released", "full")


def test_a_step_is_the_papers(tiny_pipe: StableDiffusionPipeline) -> None:
    """Both searches, latents by the model in training, the target and the loss, on the same draws."""
    task = task_of(tiny_pipe, negative_guidance=1.5, attack_learning_rate=0.05)
    path = TextPath(DiffusionComponents.from_pipeline(tiny_pipe))
    ids = path.ids("dog")
    concept, empty = path.encode("dog").detach(), path.encode("").detach()
    first = StepDraws.at(3, 0, batch=2)
    torch.randint(1, (), generator=first.shared)
    tokens = (task.pair.target.start(0, first.shared), task.pair.attack.start(0, first.shared))
    index = int(torch.randint(4, (), generator=first.shared))
    noise = torch.randn((1, 4, 8, 8), generator=first.shared)

    def prefixed(token: Tensor) -> Tensor:
        row = ids[0].tolist()
        longer = torch.tensor([[row[0], 0, *row[1:-1]]])
        embeddings = path.token_embeddings(longer).detach().clone()
        return path.states(longer, torch.cat([embeddings[:, :1], token, embeddings[:, 2:]], dim=1))

    def sampled(states: Tensor, start: Tensor, stop: list[int]) -> tuple[Tensor, Tensor]:
        return partial_sample(
            task.pupil, states, empty, noise=start, step_index=stop, steps=4, guidance_scale=3.0
        )

    target, attack = signed_steps(
        task.teacher, task.pupil, prefixed, concept, tokens, sampled(concept, noise, [index]), 0.05
    )
    with torch.no_grad():
        aimed, asked = prefixed(target), prefixed(attack)
    total = 0.0
    for generator in first.samples:
        stop = int(torch.randint(4, (), generator=generator))
        start = torch.randn((1, 4, 8, 8), generator=generator)
        where = sampled(aimed, start, [stop])
        with torch.no_grad():
            total += float(erasing_loss(task.teacher, task.pupil, aimed, asked, empty, where, 1.5)) / 2

    losses = task.losses(StepDraws.at(3, 0, batch=2))
    assert task.pair.target_delta is not None
    assert task.pair.attack_delta is not None
    torch.testing.assert_close(task.pair.target_delta, target, atol=1e-5, rtol=0)
    torch.testing.assert_close(task.pair.attack_delta, attack, atol=1e-5, rtol=0)
    assert float(losses[TOTAL].detach()) == pytest.approx(total, rel=1e-3)
    steps = (target - tokens[0]).abs()
    assert bool(((steps == 0) | ((steps - 0.05).abs() < 1e-6)).all())


def test_a_batch_is_its_rows_one_by_one(tiny_pipe: StableDiffusionPipeline) -> None:
    """Also where the timesteps that the UNet is told are drawn."""
    task = task_of(tiny_pipe, alignment="compvis")
    draws = [torch.Generator().manual_seed(seed) for seed in (1, 2, 1, 2)]
    z, t = task._sample(task.concepts, draws[:2])
    rows = [task._sample(task.concepts, [generator]) for generator in draws[2:]]
    assert t.tolist() == [int(told) for _, told in rows]
    torch.testing.assert_close(z, torch.cat([latents for latents, _ in rows]), atol=1e-4, rtol=1e-3)


def test_the_erasure_target_goes_to_the_centre_over_many_steps(tiny_pipe: StableDiffusionPipeline) -> None:
    task = task_of(tiny_pipe, attack_steps=1, attack_learning_rate=0.02)
    told = []
    for _ in range(25):
        latents = torch.Generator().manual_seed(9)  # the same latents at each step
        told.append(float(task._search(0, latents)["aet"]))
        assert task.pair.target_delta is not None
    assert told[-1] < 0.9 * told[0]


def test_random_tokens_begin_anew_and_the_latest_go_on(tiny_pipe: StableDiffusionPipeline) -> None:
    for init in ("latest", "random"):
        task = task_of(tiny_pipe, attack_init=init)
        task.losses(StepDraws.at(0, 0, batch=1))
        before = task.pair.target_delta
        task.losses(StepDraws.at(0, 1, batch=1))
        after = task.pair.target_delta
        assert before is not None
        assert after is not None
        moved = float((after - before).abs().max())
        assert (moved <= 1.001e-3) == (init == "latest")


def test_a_ball_holds_the_tokens_near_their_start(tiny_pipe: StableDiffusionPipeline) -> None:
    task = task_of(
        tiny_pipe, attack_init="random", attack_steps=6, attack_learning_rate=0.1, attack_ball=0.15
    )
    draws = StepDraws.at(0, 0, batch=1)
    torch.randint(1, (), generator=draws.shared)
    start = task.pair.target.start(0, draws.shared)
    task.losses(StepDraws.at(0, 0, batch=1))
    assert task.pair.target_delta is not None
    assert 0 < float((task.pair.target_delta - start).abs().max()) <= 0.15001


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"retain_mode": "none"}, lambda e, r: e),
        ({"retain_mode": "penalty", "retain_weight": 0.3}, lambda e, r: e + 0.3 * r),
        (
            {"omega_rule": "fixed", "omega": 0.5},
            lambda e, r: e - 0.5 * (e * r).sum() / (r * r).sum() * r if (e * r).sum() < 0 else e,
        ),
    ],
)
def test_gradients_are_changed_as_asked(
    tiny_pipe: StableDiffusionPipeline, values: dict[str, object], expected: object
) -> None:
    task = task_of(tiny_pipe, **values)
    task.losses(StepDraws.at(0, 0, batch=1))[TOTAL].backward()
    gradients = {name: p.grad.clone() for name, p in task.parameters().items() if p.grad is not None}
    stepped = []
    task.around_step(lambda: stepped.append(True))
    assert stepped == [True]
    for name, erase in gradients.items():
        parameter = task.student.parameters[name]
        pull = parameter.detach() - task.student.teacher[name]
        wanted = expected(erase, pull)  # type: ignore[operator]
        torch.testing.assert_close(parameter.grad, wanted, atol=1e-6, rtol=1e-4)


def test_the_optimizers_step_may_be_rectified_instead(tiny_pipe: StableDiffusionPipeline) -> None:
    task = task_of(tiny_pipe, rectify="after", omega_rule="fixed", omega=1.0)
    task.losses(StepDraws.at(0, 0, batch=1))[TOTAL].backward()
    before = {name: p.detach().clone() for name, p in task.parameters().items()}
    optimizer = torch.optim.Adam(task.parameters().values(), lr=1e-3)
    told = task.around_step(optimizer.step)
    assert told["conflicts"] > 0
    for name, parameter in task.parameters().items():
        pull = before[name] - task.student.teacher[name]
        step = before[name] - parameter.detach()
        assert float((step * pull).sum()) >= -1e-4 * float(step.norm() * pull.norm())


@pytest.mark.parametrize(
    ("method", "component", "source"),
    [("full", "unet", "student"), ("xattn", "unet", "pool"), ("text_encoder_full", "text_encoder", "pool")],
)
def test_nothing_but_the_group_changes(
    tiny_pipe: StableDiffusionPipeline, method: str, component: str, source: str
) -> None:
    before = {
        part: {name: weight.clone() for name, weight in component_tensors(getattr(tiny_pipe, part)).items()}
        for part in ("unet", "text_encoder")
    }
    hooks = [len(module._forward_hooks) for module in tiny_pipe.text_encoder.modules()]
    artifact = train_aegis(tiny_pipe, config(train_method=method, latents_from=source), base=BASE)
    (edit,) = artifact.edits.values()
    assert list(artifact.edits) == [component]
    assert isinstance(edit, DeltaEdit)
    if method == "xattn":
        assert all(".attn2." in name for name in edit.targets)
    assert not any("embedding" in name for name in edit.targets if component == "text_encoder")
    for part, weights in before.items():
        now = component_tensors(getattr(tiny_pipe, part))
        assert all(torch.equal(now[name], weight) for name, weight in weights.items())
    assert hooks == [len(module._forward_hooks) for module in tiny_pipe.text_encoder.modules()]
    assert all(parameter.requires_grad for parameter in tiny_pipe.unet.parameters())


def test_latents_of_a_target_that_changes_cannot_be_kept() -> None:
    with pytest.raises(ConfigError, match="latents_for aet with latents_from pool cannot be done"):
        config(latents_from="pool", latents_for="aet")
    with pytest.raises(ConfigError, match="no erasure target"):
        config(erasure_target="concept", latents_for="aet")
    assert config(latents_from="pool").sampled_for == "concept"


@pytest.mark.parametrize(
    "values", [{}, {"latents_from": "trajectory"}, {"memory": "full"}, {"attack_every": 2}]
)
def test_a_stopped_run_gives_the_artifact_of_an_uninterrupted_one(
    tiny_pipe: StableDiffusionPipeline, tmp_path: Path, values: dict[str, object]
) -> None:
    def stop(progress: Progress) -> None:
        if progress.phase == "train" and progress.done == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    steps = {"max_train_steps": 6, "learning_rate": 1e-2, **values}
    seen: list[Progress] = []
    whole = train_aegis(tiny_pipe, config(**steps), base=BASE, progress=seen.append).edits["unet"]
    assert {"omega", "cosine", "conflicts", "distance", "aet", "attack"} <= {
        name for event in seen for name in event.values
    }
    place = {**steps, "output_dir": str(tmp_path / "artifact")}
    with pytest.raises(TrainingStopped):
        train_aegis(tiny_pipe, config(**place), base=BASE, progress=stop)
    again = train_aegis(tiny_pipe, config(**place, resume_from_checkpoint="latest"), base=BASE).edits["unet"]
    assert isinstance(whole, DeltaEdit)
    assert isinstance(again, DeltaEdit)
    assert list(whole.deltas) == list(again.deltas)
    assert all(torch.equal(whole.deltas[name], again.deltas[name]) for name in whole.deltas)


def test_kept_latents_cost_a_tenth_of_sampled_ones(tiny_pipe: StableDiffusionPipeline) -> None:
    sampled = task_of(tiny_pipe, num_inference_steps=50)
    for step in range(6):
        sampled.losses(StepDraws.at(0, step, batch=1))
    kept = task_of(tiny_pipe, num_inference_steps=50, latents_from="pool", pool_trajectories=1)
    pool = kept.evaluations
    kept.losses(StepDraws.at(0, 0, batch=1))
    assert pool == 50 * 2
    assert kept.evaluations - pool == 5
    assert sampled.evaluations / 6 > 50


def test_no_temporary_is_larger_than_a_few_of_one_tensor() -> None:
    """θ - θ0 is made for one weight at a time: forty equal tensors take no more than four of them do."""
    peaks = {}
    for count in (4, 40):
        network = nn.ModuleDict({f"l{n}": nn.Linear(50, 50, bias=False) for n in range(count)})
        teacher = {name: one.detach() - 0.1 for name, one in network.named_parameters()}
        student = Student("unet", network, dict(network.named_parameters()), teacher)
        step = AEGISStep(student, config(omega_rule="fixed", omega=1.0))
        for one in student.parameters.values():
            one.grad = -torch.ones_like(one)
        with LiveBytes() as live:
            told = step.make(lambda: None)
        assert told["conflicts"] == 1.0
        peaks[count] = live.peak
    one = 50 * 50 * 4
    assert peaks[4] >= one
    assert peaks[40] < 3 * one


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_the_way_back_is_of_full_precision(tiny_pipe: StableDiffusionPipeline, precision: str) -> None:
    task = task_of(tiny_pipe, mixed_precision=precision, frozen_dtype="bfloat16")
    assert task.teacher.dtype is torch.bfloat16
    for name, weight in task.student.parameters.items():
        with torch.no_grad():
            weight.copy_(task.student.teacher[name] + 1e-5)
        pull = task.step._pull(name)
        assert pull.dtype is torch.float32
        assert torch.equal(pull, weight.detach() - task.student.teacher[name])
        assert bool(pull.any())


def test_each_concept_has_tokens_of_its_own(tiny_pipe: StableDiffusionPipeline) -> None:
    chosen = config(latents_from="pool", pool_trajectories=1)
    components = DiffusionComponents.from_pipeline(tiny_pipe)
    wordings = [ScopedPrompt("dog", concept="dog"), ScopedPrompt("a dog", concept="dog"), ScopedPrompt("owl")]
    task = AEGISTask(components, Student.of(components, "xattn"), wordings, chosen)
    found = []
    for number in (0, 1, 2, 0):
        task._search(number, StepDraws.at(0, len(found), batch=1).shared)
        assert task.pair.target_delta is not None
        found.append(task.pair.target_delta)
    moved = [float((found[one] - found[other]).abs().max()) for one, other in ((0, 1), (1, 2), (1, 3))]
    assert moved[0] <= 1.001e-3
    assert moved[1] > 2e-3
    assert moved[2] <= 1.001e-3
    again = AEGISTask(components, Student.of(components, "xattn"), wordings, chosen)
    again.load_state(task.state())
    assert again.pair.target_delta is not None
    assert torch.equal(again.pair.target_delta, found[-1])


def test_a_search_is_done_once_for_all_passes_of_a_step(tiny_pipe: StableDiffusionPipeline) -> None:
    task = task_of(tiny_pipe, latents_from="pool")
    one = task.losses(StepDraws.at(0, 0, batch=1))
    found = task.pair.target_delta
    other = task.losses(StepDraws.at(0, 0, batch=1, first=1))
    assert found is task.pair.target_delta
    assert float(one["aet"]) == float(other["aet"])
    task.losses(StepDraws.at(0, 1, batch=1))
    assert found is not task.pair.target_delta


def test_a_ball_holds_tokens_that_go_on(tiny_pipe: StableDiffusionPipeline) -> None:
    task = task_of(tiny_pipe, latents_from="pool", attack_learning_rate=0.1, attack_ball=0.15)
    first = StepDraws.at(0, 0, batch=1)
    torch.randint(1, (), generator=first.shared)
    start = task.pair.target.start(0, first.shared)
    for step in range(6):
        task.losses(StepDraws.at(0, step, batch=1))
    assert task.pair.target_delta is not None
    assert 0.1 <= float((task.pair.target_delta - start).abs().max()) <= 0.15001


def test_a_ball_holds_tokens_that_go_on_after_a_stop(tiny_pipe: StableDiffusionPipeline) -> None:
    settings = {"latents_from": "pool", "attack_learning_rate": 0.1, "attack_ball": 0.15}
    task, again = task_of(tiny_pipe, **settings), task_of(tiny_pipe, **settings)
    for step in range(2):
        task.losses(StepDraws.at(0, step, batch=1))
    again.load_state(task.state())
    for one in (task, again):
        one.losses(StepDraws.at(0, 2, batch=1))
    assert task.pair.target_delta is not None
    assert again.pair.target_delta is not None
    assert torch.equal(task.pair.target_delta, again.pair.target_delta)


def test_each_wording_has_its_own_scope_and_may_be_asked_plainly(tiny_pipe: StableDiffusionPipeline) -> None:
    """A student that is still the original, asked plainly: its loss is the target's distance."""
    plain = {"erasure_target": "concept", "adversarial": False, "negative_guidance": 1.5}
    chosen = config(latents_from="pool", pool_trajectories=1, **plain)
    components = DiffusionComponents.from_pipeline(tiny_pipe)
    wordings = [ScopedPrompt("dog", "owl"), ScopedPrompt("owl", "red cat")]
    task = AEGISTask(components, Student.of(components, "xattn"), wordings, chosen)
    assert task.kept is not None
    seen = set()
    for step in range(6):
        number = int(torch.randint(2, (), generator=StepDraws.at(0, step, batch=2).shared))
        seen.add(number)
        loss = task.losses(StepDraws.at(0, step, batch=2))[TOTAL]
        found = task.kept.draw(StepDraws.at(0, step, batch=2), [number] * 2)
        states = task.base_text.encode([wordings[number].prompt, wordings[number].scope])
        with torch.no_grad():
            concept, origin = (
                task.teacher(found.latents, found.timesteps, one.expand(2, -1, -1)) for one in states
            )
            expected = (concept - (origin - 1.5 * (concept - origin))).square().mean()
        assert float(loss.detach()) == pytest.approx(float(expected), rel=1e-4)
    assert seen == {0, 1}


def test_the_distance_is_that_of_all_weights() -> None:
    """A weight that got no gradient is away from the original as well."""
    network = nn.ModuleDict({f"l{n}": nn.Linear(5, 5, bias=False) for n in range(2)})
    teacher = {name: one.detach() - 0.1 for name, one in network.named_parameters()}
    student = Student("unet", network, dict(network.named_parameters()), teacher)
    network["l0"].weight.grad = torch.ones(5, 5)
    told = AEGISStep(student, config(omega_rule="fixed", omega=1.0)).make(lambda: None)
    assert told["distance"] == pytest.approx(0.1 * 50**0.5, rel=1e-5)


def test_a_step_is_rectified_against_where_it_began() -> None:
    network = nn.ModuleDict({"l": nn.Linear(4, 4, bias=False)})
    weight, pull = network["l"].weight, torch.full((4, 4), 0.1)
    before = weight.detach().clone()
    student = Student("unet", network, dict(network.named_parameters()), {"l.weight": before - pull})
    weight.grad = -torch.arange(1.0, 17.0).reshape(4, 4)
    chosen = config(rectify="after", omega_rule="fixed", omega=1.0)
    AEGISStep(student, chosen).make(torch.optim.SGD([weight], lr=0.5).step)
    step = 0.5 * weight.grad
    expected = step - (step * pull).sum() / (pull * pull).sum() * pull
    torch.testing.assert_close(before - weight.detach(), expected, atol=1e-4, rtol=1e-4)
