"""Ring-A-Bell: the vector of a concept, the distance searched, and that the erased model is not asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from diffusers_erasure.attacks import AttackedPrompt, attack_named, ring_a_bell
from diffusers_erasure.attacks.concept_prompts import concept_pairs, concept_words
from diffusers_erasure.attacks.genetic import Population
from diffusers_erasure.attacks.ring_a_bell import Found, RingABellConfig, concept_vector, layout, search
from diffusers_erasure.prompts import PromptPair

QUICK = RingABellConfig(tokens=4, population=6, generations=3, pairs=2)
ITEMS = [AttackedPrompt("a dog", 1, "dog"), AttackedPrompt("a cat", 2, "dog")]


def test_the_published_budget_is_the_default() -> None:
    config = RingABellConfig()
    assert (config.tokens, config.strength, config.population, config.generations) == (16, 3.0, 200, 3000)
    assert (config.mutation_rate, config.crossover_rate) == (0.25, 0.5)
    assert (config.judged_images, config.work) == (2, 3000)


def test_the_vector_is_the_mean_difference(make_target: Callable[..., Any]) -> None:
    target = make_target()
    pairs = [PromptPair("a dog", "a cat", "dog", "cat"), PromptPair("dog x", "cat x", "dog", "cat")]
    states = {text: target.encode([text])[0] for pair in pairs for text in (pair.source, pair.target)}
    expected = (states["a dog"] - states["a cat"] + states["dog x"] - states["cat x"]) / 2
    torch.testing.assert_close(concept_vector(target, pairs), expected)


def test_losses_are_distances_to_the_shifted_prompt(make_target: Callable[..., Any]) -> None:
    target = make_target()
    vector = concept_vector(target, concept_pairs("dog", limit=2))
    found = search(target, ITEMS, {"dog": vector}, QUICK, lambda _: None)
    soft = layout(target, QUICK)
    for row, item in enumerate(ITEMS):
        wanted = target.encode([item.prompt])[0] + 3 * vector
        for place in range(QUICK.population):
            with torch.no_grad():
                states = target.text.states(soft.fill(found.population.ids[row, place])[None])[0]
            torch.testing.assert_close(found.population.losses[row, place], (states - wanted).square().mean())
    best = found.population.losses[:, 0].tolist()
    assert all(last <= first for first, last in zip(found.first_losses, best, strict=True))


def test_the_search_never_asks_the_erased_model(
    make_target: Callable[..., Any], make_tiny_pipe: Callable[..., Any]
) -> None:
    base = make_target()
    spec, config = attack_named("ring_a_bell"), QUICK.model_copy(update={"read": "ids", "candidates": 2})
    runs = [
        spec.run(ITEMS, make_target(pipe=make_tiny_pipe(seed=seed)), config, base=base) for seed in (1, 2)
    ]
    assert [one.ids for one in runs[0]] == [one.ids for one in runs[1]]
    for one in runs[0]:
        assert one.failed is None
        assert (one.judged, one.steps) == (3, 3)
        assert one.queries == 3 * base.queries_per_picture
        assert one.details["encodings"] <= 3 * QUICK.population


def test_sentences_differ_in_the_concept_alone() -> None:
    pairs = concept_pairs("Hamburg", limit=3)
    assert len(pairs) == 3
    assert all("Hamburg" in pair.source and "thing" in pair.target for pair in pairs)
    assert concept_words("church")[0] != "church"
    assert "church" in concept_words("church")


def found(*members: list[int]) -> Found:
    """What a search of one prompt found, in this order."""
    count = len(members)
    return Found(Population(torch.tensor([members]), torch.zeros(1, count), (count,)), (0.0,))


@pytest.mark.parametrize(("shows", "judged"), [((False, False, False), 3), ((False, True, False), 2)])
def test_one_text_is_judged_once_and_a_success_ends_it(
    make_target: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, shows: tuple[bool, ...], judged: int
) -> None:
    answers, shown = iter(shows), list[int]()

    def judge(images: torch.Tensor) -> torch.Tensor:
        shown.append(len(images))
        return torch.tensor([next(answers) for _ in images])

    three = found([1, 2, 3, 4], [1, 2, 3, 4], [4, 3, 2, 1])
    monkeypatch.setattr(ring_a_bell, "search", lambda *_: three)
    config = QUICK.model_copy(update={"read": "ids", "candidates": 3})
    (outcome,) = attack_named("ring_a_bell").run(
        ITEMS[:1], make_target(judge=judge), config, base=make_target()
    )
    assert (outcome.success, outcome.judged) == (any(shows), judged)
    typed = outcome.success and not outcome.round_trip  # the text of what succeeded is drawn as well
    assert sum(shown) == judged + typed


def test_no_more_candidates_are_shown_than_there_are(make_target: Callable[..., Any]) -> None:
    config = QUICK.model_copy(update={"read": "ids", "candidates": 9, "population": 2})
    (outcome,) = attack_named("ring_a_bell").run(ITEMS[:1], make_target(), config, base=make_target())
    assert (outcome.failed, config.judged_images) == (None, 3)
    assert outcome.judged <= 3
