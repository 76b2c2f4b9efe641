"""UnlearnDiffAtk against a literal loop over prompts, and what its outcomes say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler

from diffusers_erasure.attacks import AttackedPrompt, attack_named, reading, simplex, unlearndiffatk
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
    assert config.model_copy(update={"order": "descending"}).levels(1000) == levels[::-1]
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


def test_a_network_that_predicts_velocity_is_asked_for_velocity(make_target: Target, tiny_pipe: Any) -> None:
    config = UnlearnDiffAtkConfig(timesteps=1, iterations=2, tokens=1, learning_rate=0.3)
    tiny_pipe.scheduler = DDIMScheduler.from_config(
        tiny_pipe.scheduler.config, prediction_type="v_prediction"
    )
    target, item = make_target(), ITEMS[0]
    (outcome,) = attack_named("unlearndiffatk").run([item], target, config, base=target)
    prompt, _ = free_prompt(target, item.prompt, 1, Placement.PREFIX)
    (latents,) = target_latents([item], target, target)
    generator = item.generator(0, "unlearndiffatk")
    _, losses = literal_search(target.components, prompt, latents, generator, config)
    assert [outcome.loss_first, outcome.loss_last] == pytest.approx(losses, rel=1e-4)


def test_a_random_start_gives_special_tokens_no_chance(
    make_target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []

    def choose(points: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
        seen.append(points)
        return simplex.choose(points, draws)

    monkeypatch.setattr(unlearndiffatk, "choose", choose)
    target = make_target()
    run(target, start="random", timesteps=1, iterations=1)
    (points,) = seen
    assert not points[..., target.components.tokenizer.all_special_ids].any()
    torch.testing.assert_close(points.sum(dim=-1), torch.ones(2, 2))
    assert len({tuple(row.tolist()) for row in points.flatten(0, 1)}) == 4


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


def test_ids_that_are_a_text_are_judged_once(make_target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is drawn for the typed text would be the same picture."""
    monkeypatch.setattr(reading, "typed", lambda _, ids: ("a dog", tuple(ids)))
    target = make_target(judge=After(1))
    outcome = run(target, ITEMS[:1], read="ids", timesteps=1)[0]
    assert (outcome.success, outcome.text_survives, outcome.round_trip) == (True, True, True)
    assert outcome.queries == outcome.steps + outcome.judged * target.queries_per_picture


def test_a_success_beside_it_changes_nothing(make_target: Target) -> None:
    """The first of two prompts succeeds at once; the other goes on with all that is its own."""
    calls: list[int] = []

    def first_one(images: torch.Tensor) -> torch.Tensor:
        calls.append(len(images))
        return torch.tensor([len(calls) == 2 and row == 0 for row in range(len(images))])

    settings = {"learning_rate": 0.3, "read": "ids", "timesteps": 3}
    together = run(make_target(judge=first_one), **settings)
    alone = run(make_target(), ITEMS[1:], **settings)
    assert [(one.success, one.steps) for one in together] == [(True, 3), (False, 9)]
    assert together[1].ids == alone[0].ids
    assert together[1].loss_last == pytest.approx(alone[0].loss_last, rel=1e-4)


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
