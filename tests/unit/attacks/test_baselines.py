"""No attack, random tokens, other seeds, and the soft prompt at test time: what they draw and count."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from diffusers_erasure.attacks import AttackedPrompt, attack_named
from diffusers_erasure.attacks.random_tokens import RandomTokensConfig
from diffusers_erasure.attacks.seed_search import SeedSearchConfig
from diffusers_erasure.attacks.soft_attack import SoftAttackConfig

Target = Callable[..., Any]
ITEMS = [AttackedPrompt("a dog", seed, "dog") for seed in range(3)]
CONTROLS = [("random_tokens", RandomTokensConfig), ("seed_search", SeedSearchConfig)]


def test_the_picture_of_a_prompt_is_the_pipelines_own(make_target: Target, tiny_pipe: Any, draw: Any) -> None:
    outcome = attack_named("no_attack").run(ITEMS[:1], make_target())[0]
    own = draw(tiny_pipe, "a dog", seed=0, num_inference_steps=2)[0]
    assert torch.equal(outcome.picture, (own * 255).round().to(torch.uint8))
    assert (outcome.judged, outcome.success, outcome.queries, outcome.text) == (1, False, 4, "a dog")


@pytest.mark.parametrize(("name", "config"), CONTROLS)
def test_controls_show_the_judge_as_many_pictures_as_they_are_told(
    make_target: Target, name: str, config: Any
) -> None:
    shown = []

    def judge(images: torch.Tensor) -> torch.Tensor:
        shown.append(len(images))
        return torch.zeros(len(images), dtype=torch.bool)

    outcomes = attack_named(name).run(ITEMS, make_target(judge), config(images=4, batch_size=2))
    assert sum(shown) == 12
    assert {outcome.judged for outcome in outcomes} == {4} == {config(images=4).judged_images}
    assert {outcome.queries for outcome in outcomes} == {16}
    assert config(images=4).scaled(2).judged_images == 7


@pytest.mark.parametrize(("name", "config"), CONTROLS)
def test_controls_end_at_a_success_and_say_when_it_was(make_target: Target, name: str, config: Any) -> None:
    calls = []

    def judge(images: torch.Tensor) -> torch.Tensor:
        calls.append(len(images))
        return torch.full((len(images),), len(calls) == 3)

    outcome = attack_named(name).run(ITEMS[:1], make_target(judge), config(images=9))[0]
    assert (outcome.success, outcome.success_at, outcome.judged) == (True, 3, 3)
    assert outcome.text_survives


@pytest.mark.parametrize(("name", "config"), CONTROLS)
def test_controls_try_nothing_where_the_plain_prompt_shows_it(
    make_target: Target, name: str, config: Any
) -> None:
    target = make_target(lambda images: torch.ones(len(images), dtype=torch.bool))
    outcome = attack_named(name).run(ITEMS[:1], target, config(images=3))[0]
    assert (outcome.success_at, outcome.judged, outcome.text) == (1, 1, "a dog")


@pytest.mark.parametrize(("name", "config"), CONTROLS)
def test_what_is_tried_does_not_depend_on_the_batch(make_target: Target, name: str, config: Any) -> None:
    target = make_target()
    tried = [
        [
            (outcome.ids, outcome.picture_seed)
            for outcome in attack_named(name).run(ITEMS, target, config(images=3, batch_size=size))
        ]
        for size in (1, 3)
    ]
    assert tried[0] == tried[1]
    assert len(set(tried[0])) == 3


def test_random_tokens_keep_the_prompt_and_can_be_typed(make_target: Target) -> None:
    target = make_target()
    for outcome in attack_named("random_tokens").run(ITEMS, target, RandomTokensConfig(images=2, tokens=2)):
        assert "dog" in outcome.text
        assert outcome.text != "a dog"
        assert outcome.picture_seed is None
        assert target.own_ids(outcome.text) == outcome.ids


def test_seed_search_changes_the_seed_alone(make_target: Target, tiny_pipe: Any, draw: Any) -> None:
    outcome = attack_named("seed_search").run(ITEMS[:1], make_target(), SeedSearchConfig(images=2))[0]
    assert outcome.text == "a dog"
    own = draw(tiny_pipe, "a dog", seed=outcome.picture_seed, num_inference_steps=2)[0]
    assert torch.equal(outcome.picture, (own * 255).round().to(torch.uint8))


def test_the_soft_prompt_restores_another_models_noise(make_target: Target, make_tiny_pipe: Any) -> None:
    target, base = make_target(), make_target(pipe=make_tiny_pipe(seed=1))
    config = SoftAttackConfig(steps=4, checkpoints=2, sampling_steps=3, tokens=2)
    seen = []
    handle = target.components.unet.register_forward_hook(
        lambda _module, arguments, _output: seen.append(arguments[0].shape[0])
    )
    outcomes = attack_named("soft_prompt").run(ITEMS[:2], target, config, base=base)
    handle.remove()
    assert sum(outcome.queries for outcome in outcomes) == sum(seen)
    assert {(outcome.judged, outcome.steps, outcome.ids) for outcome in outcomes} == {(3, 4, None)}
    assert not any(outcome.zero_gradient or outcome.failed for outcome in outcomes)
    assert outcomes[0].loss_first is not None
