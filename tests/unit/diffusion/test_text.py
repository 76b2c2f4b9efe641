"""Tokens, positions and states, against what the pipeline itself computes."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from diffusers import StableDiffusionPipeline

from diffusers_erasure.diffusion import DiffusionComponents, distinct, encode, evaluating, tokenize
from diffusers_erasure.errors import ConfigError


class _SlowTokenizer:
    """The same tokenizer without character offsets, as older libraries have it."""

    is_fast = False

    def __init__(self, fast: object) -> None:
        self._fast = fast

    def __getattr__(self, name: str) -> object:
        return getattr(self._fast, name)

    def __call__(self, text: str, **options: object) -> object:
        assert not options.pop("return_offsets_mapping", False)
        return self._fast(text, **options)  # type: ignore[operator]


def test_the_bundle_knows_its_sizes(components: DiffusionComponents) -> None:
    assert components.max_tokens == 24
    assert components.text_width == 8
    assert components.text_device == torch.device("cpu")


def test_an_incomplete_pipeline_is_refused() -> None:
    with pytest.raises(ConfigError, match="has no tokenizer, text_encoder, unet, vae, scheduler"):
        DiffusionComponents.from_pipeline(SimpleNamespace())  # type: ignore[arg-type]


def test_two_text_encoders_are_refused(tiny_pipe: StableDiffusionPipeline) -> None:
    double = SimpleNamespace(**tiny_pipe.components, text_encoder_2=tiny_pipe.text_encoder)
    with pytest.raises(ConfigError, match="two text encoders"):
        DiffusionComponents.from_pipeline(double)  # type: ignore[arg-type]


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize(
    ("text", "word", "positions"),
    [
        ("dog", "dog", (1, 2, 3)),
        ("a dog", "dog", (2, 3, 4)),
        ("a  big   DOG", "dog", (5, 6, 7)),
        ("dog, a dog", "dog", (1, 2, 3, 6, 7, 8)),
        ("my van gogh", "Van Gogh", (3, 4, 5, 6, 7, 8, 9)),
        ("a dogma, dog", "dog", (8, 9, 10)),
    ],
)
def test_positions_come_from_the_tokenizer(
    components: DiffusionComponents, text: str, word: str, positions: tuple[int, ...], fast: bool
) -> None:
    tokenizer = components.tokenizer if fast else _SlowTokenizer(components.tokenizer)
    prompt = tokenize(tokenizer, text, word=word)  # type: ignore[arg-type]
    assert prompt.word == positions
    assert prompt.ids[prompt.end] == components.tokenizer.eos_token_id
    assert prompt.ids[0] == components.tokenizer.bos_token_id


def test_a_word_that_is_absent_or_cut_off_is_an_error(components: DiffusionComponents) -> None:
    with pytest.raises(ConfigError, match="'cat' has no token"):
        tokenize(components.tokenizer, "a dog", word="cat")
    with pytest.raises(ConfigError, match="at most 24 tokens"):
        tokenize(components.tokenizer, "a very very very very long way to the dog", word="dog")


def test_padding_is_never_part_of_a_prompt(components: DiffusionComponents) -> None:
    components.tokenizer.pad_token = "a"  # a pad token that words contain too, unlike the end token
    prompt = tokenize(components.tokenizer, "banana", word="banana")
    assert prompt.word == (1, 2, 3, 4, 5, 6)
    assert prompt.end == 7
    padded = next(iter(encode(components, [prompt], padded=True))).states
    ids = components.tokenizer("banana", padding="max_length", max_length=24, return_tensors="pt").input_ids
    with torch.no_grad():
        assert torch.equal(padded, components.text_encoder(ids)[0])


@pytest.mark.parametrize("padded", [True, False])
def test_states_are_those_of_the_pipeline(
    tiny_pipe: StableDiffusionPipeline, components: DiffusionComponents, padded: bool
) -> None:
    texts = ["a dog", "", "a much longer prompt", "owl", "van gogh", "a dog"]
    prompts, numbers = distinct([tokenize(components.tokenizer, text) for text in texts])
    assert numbers == (0, 1, 2, 3, 4, 0)
    seen = []
    for batch in encode(components, prompts, padded=padded, batch_size=2):
        for index, states, length in zip(batch.indices, batch.states, batch.lengths, strict=True):
            expected = tiny_pipe.encode_prompt(prompts[index].text, "cpu", 1, False)[0][0]
            width = 24 if padded else length
            assert (states[:width] - expected[:width]).abs().max() < 1e-5
            seen.append(index)
    assert sorted(seen) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("pad", [",", "a"])
def test_padding_is_the_pad_token_where_that_is_not_the_end_token(
    tiny_pipe: StableDiffusionPipeline, components: DiffusionComponents, pad: str
) -> None:
    """Stable Diffusion 2.x pads with "!", not with the end token."""
    texts = ["a dog", "", "a, banana,", "x" * 40]
    of_end_tokens = next(iter(encode(components, [tokenize(components.tokenizer, "a dog")], padded=True)))
    components.tokenizer.pad_token = pad
    assert components.tokenizer.pad_token_id != components.tokenizer.eos_token_id
    prompts = [tokenize(components.tokenizer, text) for text in texts]
    assert [prompt.end for prompt in prompts] == [5, 1, 10, 23]
    own = {
        batch.indices[0]: batch.states[0] for batch in encode(components, prompts, padded=False, batch_size=1)
    }
    for batch in encode(components, prompts, padded=True):
        for index, states in zip(batch.indices, batch.states, strict=True):
            expected = tiny_pipe.encode_prompt(texts[index], "cpu", 1, False)[0][0]
            torch.testing.assert_close(states, expected, rtol=0, atol=1e-6)
            torch.testing.assert_close(own[index], expected[: prompts[index].end + 1], rtol=0, atol=1e-6)
            if index == 0:
                assert (states[6:] - of_end_tokens.states[0, 6:]).abs().max() > 1e-2


def test_batches_of_similar_length_waste_little(components: DiffusionComponents) -> None:
    prompts = [tokenize(components.tokenizer, "x" * (1 + index % 7)) for index in range(14)]
    sizes = [batch.states.shape[1] for batch in encode(components, prompts, padded=False, batch_size=2)]
    assert sizes == [3, 4, 5, 6, 7, 8, 9]


def test_an_encoder_that_reads_both_ways_gets_the_full_length(components: DiffusionComponents) -> None:
    components.text_encoder.config.model_type = "bert"
    batch = next(iter(encode(components, [tokenize(components.tokenizer, "dog")], padded=False)))
    assert batch.states.shape[1] == 24


def test_an_encoder_that_wants_a_mask_gets_one(components: DiffusionComponents) -> None:
    masks = []

    def encoder(ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor]:
        masks.append(attention_mask)
        return (torch.zeros(*ids.shape, 8),)

    module = torch.nn.Module()
    module.forward = encoder  # type: ignore[method-assign, assignment]
    module.config = SimpleNamespace(use_attention_mask=True, model_type="bert", max_position_embeddings=24)  # type: ignore[assignment]
    module.register_parameter("anything", torch.nn.Parameter(torch.zeros(1)))
    masked = replace(components, text_encoder=module)  # type: ignore[arg-type]
    next(iter(encode(masked, [tokenize(components.tokenizer, "dog")], padded=True)))
    assert masks[0].sum() == 5


def test_evaluating_leaves_training_flags_as_they_were() -> None:
    module = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Dropout())
    module[1].eval()

    def fail() -> None:
        with evaluating(module):
            assert not any(part.training for part in module.modules())
            assert not torch.is_grad_enabled()
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert [part.training for part in module.modules()] == [True, True, False]
    assert torch.is_grad_enabled()
