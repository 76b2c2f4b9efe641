"""The soft prompt attack against a literal loop, and the properties that training relies on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import torch

from diffusers_erasure.attacks.soft_prompt import (
    Descent,
    PlacedPrompts,
    random_embeddings,
    soft_prompt_attack,
)
from diffusers_erasure.diffusion.soft_prompt import Placement, SoftPrompt
from diffusers_erasure.errors import ConfigError
from tests.reference.soft_prompt import literal_soft_prompt

Target = Callable[..., Any]


@dataclass(frozen=True)
class Draw:
    """What a step looks at."""

    latents: torch.Tensor
    timesteps: torch.Tensor
    target_conditional: torch.Tensor


def draws(rows: int, steps: int) -> list[Draw]:
    generator = torch.Generator().manual_seed(0)
    return [
        Draw(
            torch.randn((rows, 4, 8, 8), generator=generator),
            torch.randint(0, 1000, (rows,), generator=generator),
            torch.randn((rows, 4, 8, 8), generator=generator),
        )
        for _ in range(steps)
    ]


def attack(
    target: Any, placement: str = "prefix", *, steps: int = 3, texts: Any = ("a dog", "cat"), **kw: Any
):
    prompts = [SoftPrompt(target.components.tokenizer, text, 2, placement) for text in texts]
    count = prompts[0].count
    start = random_embeddings(target.text, len(prompts), count, torch.Generator().manual_seed(1))
    looked_at = draws(len(prompts) * kw.pop("rows", 1), steps)
    descent = Descent(steps, kw.pop("learning_rate", 0.01), kw.pop("rule", "adam"))
    found = soft_prompt_attack(
        prompts, target.text, target.predictor, looked_at.__getitem__, delta=start, descent=descent, **kw
    )
    return prompts, start, looked_at, found


@pytest.mark.parametrize("rule", ["adam", "sign"])
@pytest.mark.parametrize("placement", [p for p in Placement if p is not Placement.ADD])
def test_equals_a_literal_loop_with_fresh_gradients_at_every_step(
    make_target: Target, placement: Placement, rule: str
) -> None:
    target = make_target()
    prompts, start, looked_at, found = attack(target, placement, texts=("a dog", "a cat"), rule=rule)
    for row, prompt in enumerate(prompts):
        one = [
            (d.latents[row : row + 1], d.timesteps[row], d.target_conditional[row : row + 1])
            for d in looked_at
        ]
        wanted = literal_soft_prompt(
            target.components, prompt.ids, prompt.positions, start[row], one, learning_rate=0.01, rule=rule
        )
        torch.testing.assert_close(found.delta[row], wanted, rtol=1e-4, atol=1e-5)


def test_added_embeddings_are_searched_too(make_target: Target) -> None:
    target = make_target()
    prompts, start, looked_at, found = attack(target, "add", texts=("dog",))
    assert prompts[0].count == 3, "one per token of the prompt"
    wanted = literal_soft_prompt(
        target.components,
        prompts[0].ids,
        prompts[0].positions,
        start[0],
        [(d.latents, d.timesteps[0], d.target_conditional) for d in looked_at],
        learning_rate=0.01,
        rule="adam",
        added=True,
    )
    torch.testing.assert_close(found.delta[0], wanted, rtol=1e-4, atol=1e-5)


def test_one_step_moves_every_coordinate_by_the_learning_rate(make_target: Target) -> None:
    target = make_target()
    for rule in ("adam", "sign"):
        _, start, _, found = attack(target, steps=1, rule=rule, learning_rate=0.003)
        moved = (found.delta - start).abs()
        torch.testing.assert_close(moved, torch.full_like(moved, 0.003), rtol=0.02, atol=1e-6)


def test_the_last_step_counts(make_target: Target) -> None:
    seen: list[tuple[int, torch.Tensor]] = []
    target = make_target()
    _, start, _, found = attack(target, steps=4, after_step=lambda step, delta: seen.append((step, delta)))
    assert [step for step, _ in seen] == [1, 2, 3, 4]
    states = [start, *(delta for _, delta in seen)]
    assert all(not torch.equal(a, b) for a, b in pairwise(states))
    assert torch.equal(found.delta, seen[-1][1])
    assert found.losses.shape == (4, 2)


def test_the_loss_falls_when_every_step_looks_at_the_same(make_target: Target) -> None:
    target = make_target()
    prompt = SoftPrompt(target.components.tokenizer, "dog", 2)
    same = draws(1, 1)[0]
    wanted = target.predictor(same.latents, same.timesteps, target.encode(["cat"]))
    found = soft_prompt_attack(
        [prompt],
        target.text,
        target.predictor,
        lambda _step: Draw(same.latents, same.timesteps, wanted.detach()),
        delta=random_embeddings(target.text, 1, 2, torch.Generator().manual_seed(0)),
        descent=Descent(40, 0.05),
    )
    assert found.losses[-1].item() < 0.5 * found.losses[0].item()


def test_prompts_do_not_touch_each_other(make_target: Target) -> None:
    target = make_target()
    _, _, _, together = attack(target, texts=("a dog", "a cat"))
    prompt = SoftPrompt(target.components.tokenizer, "a dog", 2)
    start = random_embeddings(target.text, 2, 2, torch.Generator().manual_seed(1))[:1]
    looked_at = [Draw(d.latents[:1], d.timesteps[:1], d.target_conditional[:1]) for d in draws(2, 3)]
    alone = soft_prompt_attack(
        [prompt], target.text, target.predictor, looked_at.__getitem__, delta=start, descent=Descent(3, 0.01)
    )
    torch.testing.assert_close(together.delta[:1], alone.delta, rtol=1e-4, atol=1e-5)


def test_several_draws_per_step_are_averaged_and_counted(make_target: Target) -> None:
    target = make_target()
    target.predictor.reset()
    _, _, _, found = attack(target, rows=3, steps=2)
    assert target.predictor.evaluations == 2 * 2 * 3
    assert found.losses.shape == (2, 2)


def test_no_weight_gets_a_gradient(make_target: Target) -> None:
    target = make_target()
    attack(target)
    weights = [*target.components.unet.parameters(), *target.components.text_encoder.parameters()]
    assert all(weight.grad is None and weight.requires_grad for weight in weights)


def test_starting_from_the_last_embeddings_goes_on(make_target: Target) -> None:
    target = make_target()
    prompts, _, looked_at, once = attack(target, steps=2, rule="sign")
    twice = soft_prompt_attack(
        prompts,
        target.text,
        target.predictor,
        looked_at.__getitem__,
        delta=once.delta,
        descent=Descent(2, 0.01, "sign"),
    )
    assert torch.equal(once.delta, attack(target, steps=2, rule="sign")[3].delta), "the start is left alone"
    assert not torch.equal(twice.delta, once.delta)


def test_random_starts_are_embeddings_of_ordinary_tokens(make_target: Target) -> None:
    target = make_target()
    drawn = random_embeddings(target.text, 200, 1, torch.Generator().manual_seed(0))[:, 0]
    distances = torch.cdist(drawn, target.text.embedding_matrix.detach())
    nearest = distances.argmin(dim=1)
    assert torch.equal(drawn, target.text.embedding_matrix[nearest])
    assert not set(nearest.tolist()) & set(target.components.tokenizer.all_special_ids)
    assert len(set(nearest.tolist())) > 30
    again = random_embeddings(target.text, 200, 1, torch.Generator().manual_seed(0))[:, 0]
    assert torch.equal(drawn, again)


def test_placed_prompts_keep_every_token_of_the_concept(make_target: Target) -> None:
    target = make_target()
    prompts = [SoftPrompt(target.components.tokenizer, text, 2) for text in ("dog", "a church")]
    placed = PlacedPrompts.of(prompts, target.text)
    tokens = torch.tensor([[5, 6], [7, 8]])
    assert [row.tolist() for row in placed.filled(tokens)] == [
        prompt.fill(row).tolist() for prompt, row in zip(prompts, tokens, strict=True)
    ]


def test_prompts_of_different_layouts_are_refused(make_target: Target) -> None:
    target = make_target()
    prompts = [SoftPrompt(target.components.tokenizer, "dog", count) for count in (1, 2)]
    with pytest.raises(ConfigError, match=r"\[1, 2\] free tokens"):
        soft_prompt_attack(
            prompts,
            target.text,
            target.predictor,
            draws(2, 1).__getitem__,
            delta=torch.zeros(2, 1, 8),
            descent=Descent(1),
        )
