"""Layouts of soft prompts, written out by hand."""

from __future__ import annotations

import pytest
import torch
from diffusers import StableDiffusionPipeline
from hypothesis import given
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from diffusers_erasure.diffusion import (
    DiffusionComponents,
    Placement,
    SoftPrompt,
    TextPath,
    ordinary_tokens,
    tokenize,
)
from diffusers_erasure.errors import ConfigError
from tests.conftest import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
START, END = 80, 81
D, O, G, S = 3, 14, 6, 58  # noqa: E741 - "dogs" is the four tokens d o g s</w>
FREE = 0


def padded(*ids: int) -> list[int]:
    return [START, *ids, END, *[END] * (22 - len(ids))]


@pytest.mark.parametrize(
    ("placement", "count", "ids", "positions"),
    [
        ("prefix", 2, (FREE, FREE, D, O, G, S), (1, 2)),
        ("suffix", 2, (D, O, G, S, FREE, FREE), (5, 6)),
        ("middle", 1, (D, O, FREE, G, S), (3,)),
        ("middle", 2, (D, O, FREE, FREE, G, S), (3, 4)),
        ("insert", 2, (FREE, D, O, FREE, G, S), (1, 4)),
        ("insert", 4, (FREE, D, FREE, O, FREE, G, FREE, S), (1, 3, 5, 7)),
        ("insert", 6, (FREE, FREE, D, FREE, O, FREE, FREE, G, FREE, S), (1, 2, 4, 6, 7, 9)),
        ("per_k_words", 1, (FREE, D, O, G, FREE, S), (1, 5)),
        ("replace", 3, (FREE, FREE, FREE), (1, 2, 3)),
        ("add", 1, (D, O, G, S), (1, 2, 3, 4)),
    ],
)
def test_layouts_of_a_concept_of_four_tokens(
    placement: str, count: int, ids: tuple[int, ...], positions: tuple[int, ...]
) -> None:
    prompt = SoftPrompt(TOKENIZER, "dogs", count, placement)
    assert prompt.ids.tolist() == padded(*ids)
    assert prompt.positions == positions
    assert prompt.count == len(positions)
    assert prompt.end == len(ids) + 1


@given(
    text=st.text(alphabet="abcdefg ", max_size=30),
    count=st.integers(1, 30),
    placement=st.sampled_from(list(Placement)),
)
def test_nothing_is_ever_dropped(text: str, count: int, placement: Placement) -> None:
    """Every token of the prompt stands in its order, and free tokens are as many as stated."""
    words = list(tokenize(TOKENIZER, text, max_tokens=1000).ids[1:-1])
    try:
        prompt = SoftPrompt(TOKENIZER, text, count, placement)
    except ConfigError:
        free = {Placement.PER_K_WORDS: -(-len(words) // 3), Placement.ADD: len(words)}.get(placement, count)
        own = 0 if placement in (Placement.ADD, Placement.REPLACE) else len(words)
        assert free == 0 or own + free + 2 > 24
        return
    ids = prompt.ids.tolist()
    assert len(ids) == 24
    assert [ids[place] for place in prompt.word_positions] == ([] if placement == "replace" else words)
    assert len(set(prompt.positions)) == prompt.count
    assert ids.index(END) == prompt.end
    if placement != Placement.ADD:
        assert sorted((*prompt.positions, *prompt.word_positions)) == list(range(1, prompt.end))


def test_a_prompt_may_come_as_tokens() -> None:
    tokens = tokenize(TOKENIZER, "dogs")
    assert torch.equal(SoftPrompt(TOKENIZER, tokens, 2).ids, SoftPrompt(TOKENIZER, "dogs", 2).ids)


@pytest.mark.parametrize("count", [19, 40])
def test_what_does_not_fit_is_refused_not_cut(count: int) -> None:
    SoftPrompt(TOKENIZER, "dogs", 18)
    with pytest.raises(ConfigError, match=rf"takes {count + 6} tokens; the text encoder reads 24"):
        SoftPrompt(TOKENIZER, "dogs", count)
    with pytest.raises(ConfigError, match="reads 10"):
        SoftPrompt(TOKENIZER, "dogs", 18, max_tokens=10)


def test_a_long_prompt_is_refused_before_the_tokenizer_cuts_it() -> None:
    with pytest.raises(ConfigError, match="takes 33 tokens"):
        SoftPrompt(TOKENIZER, "a" * 30, 1)


@pytest.mark.parametrize(
    ("prompt", "count", "placement", "message"),
    [
        ("dog", 0, "prefix", "0 free tokens"),
        ("dog", 1, "infix", "no placement 'infix'"),
        ("", 1, "add", "has no token"),
        ("", 1, "per_k_words", "has no token"),
    ],
)
def test_what_means_nothing_is_refused(prompt: str, count: int, placement: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SoftPrompt(TOKENIZER, prompt, count, placement)


@pytest.mark.parametrize("placement", list(Placement))
def test_embeddings_change_at_the_free_places_alone(placement: Placement) -> None:
    prompt = SoftPrompt(TOKENIZER, "dogs", 2, placement)
    own = torch.randn((1, 24, 8), generator=torch.Generator().manual_seed(0))
    delta = torch.randn((3, prompt.count, 8), generator=torch.Generator().manual_seed(1), requires_grad=True)
    full = prompt.embeddings(own, delta)
    for row in range(3):
        for place in range(24):
            expected = own[0, place]
            if place in prompt.positions:
                free = delta[row, prompt.positions.index(place)]
                expected = expected + free if placement == "add" else free
            assert torch.equal(full[row, place], expected)
    full.sum().backward()
    assert delta.grad is not None
    assert torch.equal(delta.grad, torch.ones_like(delta))


def test_free_tokens_of_another_shape_are_refused() -> None:
    prompt = SoftPrompt(TOKENIZER, "dogs", 2)
    with pytest.raises(ConfigError, match=r"expected \(batch, 2, 8\)"):
        prompt.embeddings(torch.zeros(1, 24, 8), torch.zeros(1, 3, 8))
    with pytest.raises(ConfigError, match="and 24 tokens"):
        prompt.embeddings(torch.zeros(1, 20, 8), torch.zeros(1, 2, 8))


def test_token_ids_fill_the_free_places() -> None:
    prompt = SoftPrompt(TOKENIZER, "dogs", 2, "suffix")
    assert prompt.fill([7, 8]).tolist() == padded(D, O, G, S, 7, 8)
    assert prompt.fill(torch.tensor([[7, 8], [9, 10]])).shape == (2, 24)
    assert prompt.ids.tolist() == padded(D, O, G, S, FREE, FREE)
    with pytest.raises(ConfigError, match="cannot stand at 2 places"):
        prompt.fill([7])


def test_hard_tokens_and_their_embeddings_give_the_same_states(tiny_pipe: StableDiffusionPipeline) -> None:
    text = TextPath(DiffusionComponents.from_pipeline(tiny_pipe))
    prompt = SoftPrompt(text.tokenizer, "dogs", 2, "insert")
    chosen = torch.tensor([7, 8])
    with torch.no_grad():
        own = text.token_embeddings(prompt.ids[None])
        soft = text.states(prompt.ids, prompt.embeddings(own, text.embedding_matrix[chosen]))
        assert torch.equal(soft, text.states(prompt.fill(chosen)[None]))


def test_ordinary_tokens_end_nothing() -> None:
    assert ordinary_tokens(TOKENIZER).tolist() == list(range(80))
    assert ordinary_tokens(TOKENIZER, vocabulary=50).tolist() == list(range(50))
    assert isinstance(TOKENIZER, CLIPTokenizer)
