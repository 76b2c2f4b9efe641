"""P4D: budgets, early stop, independence of the batch, and gradients to the iterates alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import cached_property
from typing import Any

import pytest
import torch
from torch import Tensor

from diffusers_erasure.attacks import AttackedPrompt, AttackTarget, attack_named
from diffusers_erasure.attacks import p4d as p4d_module
from diffusers_erasure.attacks.p4d import P4DConfig
from diffusers_erasure.attacks.searching import gradient_to
from diffusers_erasure.attacks.target_picture import target_latents
from tests.reference.pez import nearest_by_cosine

ITEMS = [AttackedPrompt("a dog", 1, "dog"), AttackedPrompt("a cat", 2, "dog")]
QUICK = P4DConfig(tokens=3, steps=4, judge_every=2)


def test_the_published_budget_is_the_default() -> None:
    config = P4DConfig()
    assert (config.tokens, config.steps, config.judge_every) == (16, 3000, 50)
    assert (config.judged_images, config.work, config.scaled(2).steps) == (61, 3000, 6000)


def test_it_spends_its_budget_and_leaves_the_weights_alone(
    make_target: Callable[..., Any], make_tiny_pipe: Callable[..., Any]
) -> None:
    pipe = make_tiny_pipe(seed=1)
    target, base = make_target(pipe=pipe), make_target()
    before = {name: value.clone() for name, value in pipe.unet.state_dict().items()}
    pictures: list[int] = []
    outcomes = attack_named("p4d").run(
        ITEMS, target, QUICK, base=base, progress=lambda p: pictures.append(p.work)
    )
    for outcome in outcomes:
        assert not outcome.success
        assert outcome.failed is None
        assert outcome.steps == 4
        assert 2 <= outcome.judged <= QUICK.judged_images
        assert outcome.queries == 4 + outcome.judged * target.queries_per_picture
        assert outcome.details["base_queries"] == 4 + base.queries_per_picture
        assert not outcome.zero_gradient
        assert outcome.loss_first is not None
    assert pictures[-1] == 8
    assert all(torch.equal(value, before[name]) for name, value in pipe.unet.state_dict().items())
    parameters = [*pipe.unet.parameters(), *pipe.text_encoder.parameters()]
    assert all(one.grad is None and one.requires_grad for one in parameters)


def test_prompts_do_not_touch_each_other(
    make_target: Callable[..., Any], make_tiny_pipe: Callable[..., Any]
) -> None:
    target, base = make_target(pipe=make_tiny_pipe(seed=1)), make_target()
    config = QUICK.model_copy(update={"read": "ids"})
    together = attack_named("p4d").run(ITEMS, target, config, base=base)
    alone = attack_named("p4d").run(ITEMS[1:], target, config, base=base)
    assert together[1].ids == alone[0].ids
    assert together[0].ids != together[1].ids


def test_a_longer_prompt_beside_it_changes_nothing(
    make_target: Callable[..., Any], make_tiny_pipe: Callable[..., Any]
) -> None:
    """Variant k frees as many tokens as a prompt has; each draws only its own."""
    target, base = make_target(pipe=make_tiny_pipe(seed=1)), make_target()
    config = QUICK.model_copy(update={"variant": "k", "read": "ids"})
    longer = AttackedPrompt("a big dog", 3, "dog")
    together = attack_named("p4d").run([ITEMS[0], longer], target, config, base=base)
    alone = attack_named("p4d").run(ITEMS[:1], target, config, base=base)
    assert together[0].ids == alone[0].ids
    assert together[0].loss_last == pytest.approx(alone[0].loss_last, rel=1e-5)


class Noting(AttackTarget):
    """A target that notes what it is asked for."""

    @cached_property
    def asked(self) -> list[str]:
        return []

    def encode(self, texts: Sequence[str]) -> Tensor:
        self.asked.extend(texts)
        return super().encode(texts)


@pytest.mark.parametrize("aim", ["", "a cat"])
def test_the_base_speaks_of_the_target_alone_even_if_it_is_empty(
    make_target: Callable[..., Any], aim: str
) -> None:
    plain = make_target()
    base = Noting(**{one.name: getattr(plain, one.name) for one in fields(plain)})
    attack_named("p4d").run([replace(ITEMS[0], target=aim)], make_target(), QUICK, base=base)
    assert set(base.asked) == {aim, ""}, "the other one is what guidance leads away from"


def test_it_stops_at_the_first_success(
    make_target: Callable[..., Any], make_tiny_pipe: Callable[..., Any]
) -> None:
    calls: list[int] = []

    def second_time(images: Tensor) -> Tensor:
        calls.append(len(images))
        return torch.full((len(images),), len(calls) == 2)

    target = make_target(judge=second_time, pipe=make_tiny_pipe(seed=1))
    outcomes = attack_named("p4d").run(ITEMS, target, QUICK, base=make_target())
    assert [(one.success, one.success_at, one.steps) for one in outcomes] == [(True, 2, 2)] * 2
    assert all(one.text_survives for one in outcomes)
    assert all(target.own_ids(one.text) == one.ids for one in outcomes)


def test_variant_k_keeps_the_prompt(
    make_target: Callable[..., Any], make_tiny_pipe: Callable[..., Any]
) -> None:
    target = make_target(pipe=make_tiny_pipe(seed=1))
    config = QUICK.model_copy(update={"variant": "k", "read": "ids"})
    (outcome,) = attack_named("p4d").run([ITEMS[0]], target, config, base=make_target())
    own = target.own_ids("a dog")
    left = iter(outcome.ids)
    assert all(token in left for token in own)
    assert len(outcome.ids) == len(own) + 2


def ordinary(target: Any) -> list[int]:
    special = set(target.components.tokenizer.all_special_ids)
    return [token for token in range(len(target.text.embedding_matrix)) if token not in special]


def test_it_finds_what_a_literal_loop_finds(
    make_target: Callable[..., Any], make_tiny_pipe: Callable[..., Any]
) -> None:
    """PEZ with torch's own AdamW, the base speaking for another prompt than the one that is attacked."""
    target, base = make_target(pipe=make_tiny_pipe(seed=1)), make_target()
    item = AttackedPrompt("a dog", 1, "dog", target="an owl")
    config = P4DConfig(tokens=2, steps=3, judge_every=3, weight_decay=2.0, read="ids")
    (outcome,) = attack_named("p4d").run([item], target, config, base=base)

    generator, (clean,) = item.generator(0, "p4d"), target_latents([item], base, base)
    matrix, allowed = target.text.embedding_matrix.detach(), ordinary(target)
    alphas = torch.cumprod(1 - base.components.scheduler.betas, 0)
    drawn = torch.randint(len(allowed), (2,), generator=generator).tolist()
    iterate = matrix[[allowed[one] for one in drawn]].clone().requires_grad_()
    optimizer = torch.optim.AdamW([iterate], lr=0.1, weight_decay=2.0)
    start, *_, end = target.own_ids("a")
    losses = []

    def nearest() -> list[int]:
        return [nearest_by_cosine(row, matrix.tolist(), allowed) for row in iterate.tolist()]

    for _ in range(3):
        t = torch.randint(1000, (1,), generator=generator)
        noise = torch.randn(clean.shape, generator=generator)
        noisy = (alphas[t].sqrt() * clean + (1 - alphas[t]).sqrt() * noise)[None]
        ids = target.text.pad([(start, 0, 0, end)])
        embeddings = target.text.token_embeddings(ids).detach().clone()
        shown = iterate + (matrix[nearest()] - iterate).detach()
        states = target.text.states(ids, torch.cat([embeddings[:, :1], shown[None], embeddings[:, 3:]], 1))
        said = target.components.unet(noisy, t, encoder_hidden_states=states).sample
        with torch.no_grad():
            wanted = base.components.unet(noisy, t, encoder_hidden_states=base.encode(["an owl"])).sample
        loss = (said - wanted).square().mean()
        losses.append(float(loss.detach()))
        (iterate.grad,) = torch.autograd.grad(loss, [iterate])
        optimizer.step()
    assert outcome.ids == (start, *nearest(), end)
    assert [outcome.loss_first, outcome.loss_last] == pytest.approx([losses[0], losses[-1]], rel=1e-4)
    assert losses[0] != losses[-1]


def test_a_success_beside_it_changes_nothing(
    make_target: Callable[..., Any], make_tiny_pipe: Callable[..., Any]
) -> None:
    """The first of two prompts succeeds half way; the other goes on with all that is its own."""
    calls: list[int] = []

    def first_one(images: Tensor) -> Tensor:
        calls.append(len(images))
        return torch.tensor([len(calls) == 2 and row == 0 for row in range(len(images))])

    pipe, base = make_tiny_pipe(seed=1), make_target()
    config = QUICK.model_copy(update={"read": "ids", "steps": 8, "learning_rate": 0.02})
    together = attack_named("p4d").run(ITEMS, make_target(judge=first_one, pipe=pipe), config, base=base)
    alone = attack_named("p4d").run(ITEMS[1:], make_target(pipe=pipe), config, base=base)
    assert [(one.success, one.steps) for one in together] == [(True, 2), (False, 8)]
    assert together[1].ids == alone[0].ids
    assert together[1].loss_last == pytest.approx(alone[0].loss_last, rel=1e-5)


def test_a_gradient_that_vanishes_later_hides_nothing(
    make_target: Callable[..., Any], make_tiny_pipe: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def vanishing(*given: Any) -> Tensor:
        calls.append(1)
        return gradient_to(*given) * (len(calls) == 1)

    monkeypatch.setattr(p4d_module, "gradient_to", vanishing)
    (outcome,) = attack_named("p4d").run(
        ITEMS[:1], make_target(pipe=make_tiny_pipe(seed=1)), QUICK, base=make_target()
    )
    assert len(calls) == outcome.steps == 4
    assert not outcome.zero_gradient
