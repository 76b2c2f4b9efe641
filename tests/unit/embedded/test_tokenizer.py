"""The tokenizer's recipe: CLIP's kind in every respect that erasing leans on."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import CLIPTokenizer

from diffusers_erasure.embedded.recipe.dataset import Scene
from diffusers_erasure.embedded.recipe.tokenizer import MAX_LENGTH, train_tokenizer

SCENES = tuple(
    Scene((name,), style, "blue")
    for name in ("dog", "church", "cat", "castle", "santa claus")
    for style in ("noto", "ink")
    for _ in range(12)
)
NAMES = ("dog-face", "red-apple", "umbrella")


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return train_tokenizer(SCENES, NAMES, seed=0)


def test_it_is_a_clip_tokenizer_with_77_places(tokenizer: CLIPTokenizer) -> None:
    assert type(tokenizer) is CLIPTokenizer
    assert tokenizer.model_max_length == MAX_LENGTH == 77
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == len(tokenizer) - 1
    assert tokenizer.bos_token_id == len(tokenizer) - 2
    ids = tokenizer("a dog", padding="max_length", truncation=True).input_ids
    assert len(ids) == 77
    assert ids[0] == tokenizer.bos_token_id
    assert set(ids[ids.index(tokenizer.eos_token_id) :]) == {tokenizer.eos_token_id}


def test_a_prompt_that_is_too_long_keeps_its_end_token(tokenizer: CLIPTokenizer) -> None:
    ids = tokenizer("dog " * 100, padding="max_length", truncation=True).input_ids
    assert len(ids) == 77
    assert ids.count(tokenizer.eos_token_id) == 1
    assert ids[-1] == tokenizer.eos_token_id


def test_bytes_merges_and_special_tokens_lie_as_in_clip(tokenizer: CLIPTokenizer) -> None:
    by_id = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    assert all(len(token) == 1 for token in by_id[:256])
    assert by_id[256:512] == [f"{token}</w>" for token in by_id[:256]]
    assert all(len(token.removesuffix("</w>")) > 1 for token in by_id[512:-2])
    assert len(set(by_id)) == len(by_id)


def test_frequent_words_are_one_token_and_strange_ones_are_spelled(tokenizer: CLIPTokenizer) -> None:
    assert tokenizer.tokenize("a dog") == ["a</w>", "dog</w>"]
    strange = "qxzj"
    assert tokenizer.tokenize(strange) == ["q", "x", "z", "j</w>"]
    assert tokenizer.unk_token_id not in tokenizer(strange, add_special_tokens=False).input_ids


@pytest.mark.parametrize("text", ["naïve", "犬", "🐶", "#@!"])
def test_any_text_is_spelled_by_its_bytes(tokenizer: CLIPTokenizer, text: str) -> None:
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert 0 < len(ids) <= len(text.encode())
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids).strip() == text


def test_some_names_are_several_tokens(tokenizer: CLIPTokenizer) -> None:
    assert len(tokenizer.tokenize("santa claus")) >= 2
    assert len(tokenizer.tokenize("ice cream")) >= 2


def test_case_does_not_matter(tokenizer: CLIPTokenizer) -> None:
    assert tokenizer("A Dog").input_ids == tokenizer("a dog").input_ids


def test_words_of_the_names_of_drawings_are_learned_too() -> None:
    repeated = train_tokenizer(SCENES, NAMES * 20, seed=0)
    assert repeated.tokenize("umbrella") == ["umbrella</w>"]


def test_it_survives_saving(tokenizer: CLIPTokenizer, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    loaded = CLIPTokenizer.from_pretrained(tmp_path)
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert loaded.model_max_length == 77
    for text in ("a dog in the style of ink", "qxzj ïx", "two churches"):
        assert loaded(text).input_ids == tokenizer(text).input_ids


def test_training_again_gives_the_same_tokenizer(tokenizer: CLIPTokenizer) -> None:
    assert train_tokenizer(SCENES, NAMES, seed=0).get_vocab() == tokenizer.get_vocab()
    assert train_tokenizer(SCENES, NAMES, seed=1).get_vocab() != tokenizer.get_vocab()
