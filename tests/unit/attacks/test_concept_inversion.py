"""Concept inversion: where the learned word stands, and that nothing else is learned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from diffusers_erasure.attacks import AttackedPrompt, attack_named, concept_inversion
from diffusers_erasure.attacks.concept_inversion import ConceptInversionConfig, invert
from diffusers_erasure.attacks.placeholder import stack_embeddings, with_placeholder
from diffusers_erasure.diffusion.text_path import TextPath
from diffusers_erasure.errors import ConfigError

QUICK = ConceptInversionConfig(pictures=2, steps=3, pictures_per_step=2)
WORDS = ("house dog", "dog")


@pytest.mark.parametrize(
    ("prompt", "vectors", "before", "places", "after"),
    [
        ("a dog", 1, "a", (2,), ""),
        ("a dog ran", 2, "a", (2, 3), "ran"),
        ("a house dog", 1, "a", (2,), ""),
        ("an owl", 2, "", (1, 2), "an owl"),
    ],
)
def test_the_learned_word_stands_in_the_concepts_place(
    tiny_pipe: Any, prompt: str, vectors: int, before: str, places: tuple[int, ...], after: str
) -> None:
    tokenizer = tiny_pipe.tokenizer
    found = with_placeholder(tokenizer, prompt, WORDS, vectors, max_tokens=24)
    left = tokenizer(before, add_special_tokens=False)["input_ids"]
    right = tokenizer(after, add_special_tokens=False)["input_ids"]
    end = len(left) + vectors + 1
    assert found.positions == places
    assert list(found.ids[1 : 1 + len(left)]) == left
    assert list(found.ids[end : end + len(right)]) == right
    assert found.ids[end + len(right)] == tokenizer.eos_token_id
    assert len(found.ids) == 24


def test_a_word_that_stands_twice_is_replaced_twice(tiny_pipe: Any) -> None:
    found = with_placeholder(tiny_pipe.tokenizer, "dog a dog", WORDS, 1, max_tokens=24)
    assert found.positions == (1, 3)


def test_a_word_beyond_the_end_is_refused(tiny_pipe: Any) -> None:
    with pytest.raises(ConfigError, match="the text encoder reads 24"):
        with_placeholder(tiny_pipe.tokenizer, "x" * 30 + " dog", WORDS, 1, max_tokens=24)


def test_embeddings_are_those_of_the_prompt_but_for_the_word(
    make_target: Callable[..., Any], tiny_pipe: Any
) -> None:
    text: TextPath = make_target().text
    row = with_placeholder(tiny_pipe.tokenizer, "a dog", WORDS, 1, max_tokens=24)
    word = torch.ones(1, text.embedding_matrix.shape[1], requires_grad=True)
    ids, embeddings = stack_embeddings(text, [row], [word])
    plain = text.token_embeddings(ids)
    differs = (embeddings != plain).any(dim=-1)[0]
    assert differs.nonzero().flatten().tolist() == [2]
    embeddings[0, 2].sum().backward()
    assert torch.equal(word.grad, torch.ones_like(word))


def test_only_the_word_is_learned_and_it_repeats(
    make_target: Callable[..., Any], make_tiny_pipe: Callable[..., Any]
) -> None:
    pipe = make_tiny_pipe(seed=1)
    target, base = make_target(pipe=pipe), make_target()
    before = {name: value.clone() for name, value in pipe.text_encoder.state_dict().items()}
    steps: list[int] = []
    first = invert("dog", target, base, QUICK, steps.append)
    again = invert("dog", target, base, QUICK, steps.append)
    assert torch.equal(first.vectors, again.vectors)
    assert steps == [1] * 6
    assert first.queries == 6
    assert not first.zero_gradient
    start = ConceptInversionConfig(**{**QUICK.model_dump(), "steps": 1})
    assert not torch.equal(invert("dog", target, base, start, steps.append).vectors, first.vectors)
    assert all(torch.equal(value, before[name]) for name, value in pipe.text_encoder.state_dict().items())


def test_pictures_of_a_style_stand_under_the_subject_that_they_show(
    make_target: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under another subject's sentence the word would learn to talk the subject away."""
    target = make_target()
    seen: dict[str, Any] = {}

    def watch(*arguments: Any) -> Any:
        seen["drawn"] = arguments[1]
        seen["rows"] = found = sentences(*arguments)
        return found

    sentences = concept_inversion._sentences
    monkeypatch.setattr(concept_inversion, "_sentences", watch)
    for concept, own in (("ink", True), ("dog", False)):
        invert(concept, target, make_target(), QUICK, lambda _: None)
        assert len(seen["rows"]) == len(seen["drawn"]) == QUICK.pictures
        for pair, allowed in zip(seen["drawn"], seen["rows"], strict=True):
            mine = with_placeholder(
                target.components.tokenizer,
                pair.source,
                (pair.source_word,),
                1,
                max_tokens=target.components.max_tokens,
            )
            assert mine in allowed
            assert (len(allowed) == 1) is own


def test_a_concept_is_learned_once_for_all_prompts(
    make_target: Callable[..., Any], make_tiny_pipe: Callable[..., Any]
) -> None:
    items = [AttackedPrompt("a dog", seed, "dog") for seed in range(3)]
    config = QUICK.model_copy(update={"batch_size": 2})
    work: list[int] = []
    target = make_target(pipe=make_tiny_pipe(seed=1))
    outcomes = attack_named("concept_inversion").run(
        items, target, config, base=make_target(), progress=lambda p: work.append(p.work)
    )
    assert work[-1] == 3 * config.work
    assert len({one.loss_last for one in outcomes}) == 1
    for one in outcomes:
        assert (one.judged, one.ids, one.text, one.failed) == (2, None, None, None)
        assert one.queries == 2 * target.queries_per_picture
