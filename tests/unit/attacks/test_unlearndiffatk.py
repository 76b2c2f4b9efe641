"""UnlearnDiffAtk against a literal loop over prompts, and what its outcomes say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from diffusers_erasure.attacks import AttackedPrompt, attack_named
from diffusers_erasure.attacks.fitting import free_prompt, typed
from diffusers_erasure.attacks.target_picture import target_latents
from diffusers_erasure.attacks.unlearndiffatk import UnlearnDiffAtkConfig
from diffusers_erasure.diffusion.soft_prompt import Placement
from diffusers_erasure.errors import ConfigError
from tests.reference.unlearndiffatk import literal_search

Target = Callable[..., Any]
SHORT = {"timesteps": 2, "iterations": 3, "tokens": 2}
ITEMS = [AttackedPrompt("a dog", 3, "dog"), AttackedPrompt("dog, big", 4, "dog")]


def run(target: Any, items: Any = ITEMS, **settings: Any) -> Any:
    config = UnlearnDiffAtkConfig(**{**SHORT, **settings})
    return attack_named("unlearndiffatk").run(items, target, config, base=target)


def test_published_budget_is_the_default() -> None:
    config = UnlearnDiffAtkConfig()
    levels = config.levels(1000)
    assert (levels[0], levels[1], levels[-1], len(levels)) == (10, 30, 990, 50)
    assert (config.iterations, config.tokens, config.judged_images, config.work) == (40, 3, 51, 2000)
    assert (config.learning_rate, config.weight_decay) == (0.01, 0.1)
    assert config.scaled(2).work == 4000
    assert config.scaled(2).judged_images == 51


def test_more_levels_than_timesteps_are_refused() -> None:
    with pytest.raises(ConfigError, match="1001 timesteps"):
        UnlearnDiffAtkConfig(timesteps=1001).levels(1000)


@pytest.mark.parametrize("placement", ["prefix", "suffix"])
def test_finds_what_a_literal_loop_finds(make_target: Target, placement: str) -> None:
    target = make_target()
    outcomes = run(target, placement=placement, learning_rate=0.3)
    config = UnlearnDiffAtkConfig(**{**SHORT, "placement": placement, "learning_rate": 0.3})
    for item, outcome in zip(ITEMS, outcomes, strict=True):
        prompt, _ = free_prompt(target, item.prompt, 2, Placement(placement))
        (latents,) = target_latents([item], target, target)
        generator = item.generator(0, "unlearndiffatk")
        found, losses = literal_search(target.components, prompt, latents, generator, config)
        wanted = tuple(prompt.fill(found).tolist()[: prompt.end + 1])
        assert outcome.ids == typed(target, wanted)[1]
        assert outcome.loss_first == pytest.approx(losses[0], rel=1e-4)
        assert outcome.loss_last == pytest.approx(losses[-1], rel=1e-4)


def test_an_outcome_does_not_depend_on_the_batch(make_target: Target) -> None:
    target = make_target()
    items = [AttackedPrompt("a dog", seed, "dog") for seed in range(3)]
    together = run(target, items, batch_size=3, learning_rate=0.3)
    in_turn = run(target, items, batch_size=1, learning_rate=0.3)
    refilled = run(target, items, batch_size=2, learning_rate=0.3)
    for others in (in_turn, refilled):
        assert [one.ids for one in others] == [one.ids for one in together]
        assert [one.loss_last for one in others] == pytest.approx([o.loss_last for o in together], rel=1e-4)


def test_a_plain_success_is_not_attacked(make_target: Target) -> None:
    target = make_target(judge=lambda images: torch.ones(len(images), dtype=torch.bool))
    target.predictor.reset()
    outcome = run(target)[0]
    assert (outcome.success, outcome.success_at, outcome.judged, outcome.steps) == (True, 1, 1, 0)
    assert (outcome.text, outcome.text_survives) == ("a dog", True)
    assert target.predictor.evaluations == 0


class After:
    """A judge that sees the concept from the n-th batch of pictures on."""

    def __init__(self, batches: int) -> None:
        self.left = batches

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        self.left -= 1
        return torch.full((len(images),), self.left < 0)


def test_the_first_success_ends_the_attack(make_target: Target) -> None:
    outcome = run(make_target(judge=After(1)), ITEMS[:1], timesteps=5, learning_rate=0.3)[0]
    assert outcome.success
    assert (outcome.success_at, outcome.judged) == (2, 2)
    assert outcome.steps == 3
    assert outcome.text_survives
    assert outcome.picture is not None
    assert outcome.picture.shape == (3, 16, 16)


def test_without_early_stop_all_levels_are_visited(make_target: Target) -> None:
    outcome = run(make_target(judge=After(1)), ITEMS[:1], learning_rate=0.3, early_stop=False)[0]
    assert outcome.success_at == 2
    assert outcome.steps == 6


def test_queries_are_the_samples_that_went_through_the_unet(make_target: Target) -> None:
    target = make_target()
    seen = []
    handle = target.components.unet.register_forward_hook(
        lambda _module, arguments, _output: seen.append(arguments[0].shape[0])
    )
    outcomes = run(target, learning_rate=0.3)
    handle.remove()
    base = sum(outcome.details["base_queries"] for outcome in outcomes)
    assert target.queries_per_picture == 4, "2 steps with guidance"
    assert sum(outcome.queries for outcome in outcomes) + base == sum(seen)


def test_the_text_that_was_judged_can_be_typed(make_target: Target) -> None:
    target = make_target()
    for outcome in run(target, learning_rate=0.3):
        assert target.own_ids(outcome.text) == outcome.ids


def test_ids_may_be_judged_as_they_are(make_target: Target) -> None:
    target = make_target(judge=After(1))
    outcome = run(target, ITEMS[:1], read="ids", learning_rate=0.3)[0]
    prompt, _ = free_prompt(target, "a dog", 2, Placement.PREFIX)
    assert len(outcome.ids) == prompt.end + 1
    assert outcome.round_trip == (target.own_ids(outcome.text) == outcome.ids)
    assert outcome.text_survives, "the judge sees the concept in the typed text's picture as well"


def test_long_prompts_lose_their_end_and_are_attacked(make_target: Target) -> None:
    target = make_target()
    outcome = run(target, [AttackedPrompt("abcdefghijklmnopqrstuvwxyz", 1, "dog")])[0]
    assert outcome.failed is None
    assert outcome.details["prompt_tokens_cut"] == 6
    assert len(outcome.ids) <= 24


def test_a_network_that_ignores_its_prompt_is_flagged(make_target: Target, tiny_pipe: Any) -> None:
    with torch.no_grad():
        for name, weight in tiny_pipe.unet.named_parameters():
            if ".attn2.to_v" in name or ".attn2.to_k" in name:
                weight.zero_()
    assert all(outcome.zero_gradient for outcome in run(make_target()))


def test_broken_weights_are_failures_and_not_robustness(make_target: Target, tiny_pipe: Any) -> None:
    with torch.no_grad():
        tiny_pipe.unet.conv_in.weight.fill_(float("nan"))
    outcomes = run(make_target())
    assert all("not finite" in outcome.failed for outcome in outcomes)
    assert all(outcome.counts_as_success for outcome in outcomes)


def test_weights_and_processors_are_as_before(make_target: Target) -> None:
    target = make_target()
    processors = target.components.unet.attn_processors
    before = target.identity
    run(target)
    assert make_target().identity == before
    assert all(target.components.unet.attn_processors[key] is processors[key] for key in processors)
    assert all(weight.grad is None and weight.requires_grad for weight in target.components.unet.parameters())


def test_needs_the_base(make_target: Target) -> None:
    with pytest.raises(ConfigError, match="was given no base"):
        attack_named("unlearndiffatk").run(ITEMS, make_target())
