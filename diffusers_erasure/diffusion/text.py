"""Prompts to tokens to text states, and where in them a concept stands.

Positions come from the tokenizer, never from counting words: a concept may be several tokens, and the pad
token may or may not be the end token.

    position 0        the start token [SoT]
    concept tokens    those whose characters overlap the concept's word
    end               the first end token [EoT], which has read the whole prompt
    after it          padding, up to the model's length; it has read the prompt too

A causal text encoder gives the states of a prompt without its padding just as well at the prompt's own
length, so `encode` spends no work on padding unless it is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from diffusers_erasure.errors import ConfigError

from .components import DiffusionComponents, evaluating


@dataclass(frozen=True)
class TokenizedPrompt:
    """Tokens of one prompt at its own length, and where the wanted word stands.

    Attributes:
        text: The prompt.
        ids: Start token, words, first end token.
        word: Positions of the word's tokens, in order; empty if no word was asked for.
    """

    text: str
    ids: tuple[int, ...]
    word: tuple[int, ...] = ()

    @property
    def end(self) -> int:
        """Position of the first end token."""
        return len(self.ids) - 1


def tokenize(
    tokenizer: PreTrainedTokenizerBase, text: str, *, word: str = "", max_tokens: int | None = None
) -> TokenizedPrompt:
    """Tokenize a prompt as the pipeline does, cut to the model's length but not padded.

    Args:
        tokenizer: The pipeline's tokenizer.
        text: The prompt.
        word: Word or phrase in it whose positions are wanted; every occurrence counts.
        max_tokens: Longest sequence; the tokenizer's own limit unless given.

    Raises:
        ConfigError: The word is not in the prompt, or was cut off.
    """
    limit = max_tokens or int(tokenizer.model_max_length)
    fast = bool(getattr(tokenizer, "is_fast", False))
    encoded = tokenizer(text, truncation=True, max_length=limit, return_offsets_mapping=fast and bool(word))
    ids = _without_padding(encoded["input_ids"], tokenizer)
    if not word:
        return TokenizedPrompt(text, ids)
    spans = [match.span() for match in _whole_word(word).finditer(text)]
    if fast:
        positions = _overlapping(encoded["offset_mapping"][: len(ids)], spans)
    else:
        positions = _occurrences(ids, tuple(tokenizer(word, add_special_tokens=False)["input_ids"]))
    if not positions:
        raise ConfigError(
            f"{word!r} has no token in the prompt {text!r} of at most {limit} tokens; it must stand in the "
            f"prompt as a word; shorten the prompt or change its wording"
        )
    return TokenizedPrompt(text, ids, positions)


def _without_padding(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Everything up to the first end token."""
    end = tokenizer.eos_token_id
    return tuple(ids[: list(ids).index(end) + 1]) if end in ids else tuple(ids)


def _whole_word(word: str) -> re.Pattern[str]:
    pattern = r"\s+".join(map(re.escape, word.split()))
    return re.compile(rf"(?<!\w){pattern}(?!\w)", re.IGNORECASE)


def _overlapping(offsets: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """Positions of the tokens whose characters meet any of the spans."""
    return tuple(
        position
        for position, (start, stop) in enumerate(offsets)
        if start < stop and any(start < last and stop > first for first, last in spans)
    )


def _occurrences(ids: tuple[int, ...], wanted: tuple[int, ...]) -> tuple[int, ...]:
    """Positions of `wanted` in `ids`, for tokenizers that do not tell characters."""
    length = len(wanted)
    starts = [start for start in range(len(ids) - length + 1) if ids[start : start + length] == wanted]
    return tuple(start + offset for start in starts for offset in range(length))


@dataclass(frozen=True)
class EncodedBatch:
    """Text states of some prompts.

    Attributes:
        indices: Which of the given prompts these are.
        states: `(batch, tokens, width)`, in the encoder's dtype and on its device.
        lengths: Tokens of each prompt up to and with its first end token.
    """

    indices: tuple[int, ...]
    states: Tensor
    lengths: tuple[int, ...]


def encode(
    components: DiffusionComponents,
    prompts: Sequence[TokenizedPrompt],
    *,
    padded: bool,
    batch_size: int = 64,
) -> Iterator[EncodedBatch]:
    """Encode prompts in batches of similar length, each distinct prompt once; the order is by length.

    Args:
        components: Whose text encoder and tokenizer.
        prompts: Tokenized prompts, without repetition (see `distinct`).
        padded: Pad to the model's length, as a pipeline does; otherwise to the longest of each batch, whose
            padded positions mean nothing.
        batch_size: Most prompts at once.
    """
    padded = padded or not _is_causal(components)
    order = sorted(range(len(prompts)), key=lambda index: (len(prompts[index].ids), index))
    for start in range(0, len(order), batch_size):
        indices = tuple(order[start : start + batch_size])
        rows = [prompts[index].ids for index in indices]
        length = components.max_tokens if padded else max(map(len, rows))
        yield EncodedBatch(indices, _states(components, rows, length), tuple(map(len, rows)))


def distinct(prompts: Sequence[TokenizedPrompt]) -> tuple[tuple[TokenizedPrompt, ...], tuple[int, ...]]:
    """Prompts with different tokens, and for every given prompt the number of its representative."""
    numbers: dict[tuple[int, ...], int] = {}
    kept = []
    for prompt in prompts:
        if prompt.ids not in numbers:
            numbers[prompt.ids] = len(numbers)
            kept.append(prompt)
    return tuple(kept), tuple(numbers[prompt.ids] for prompt in prompts)


def _states(components: DiffusionComponents, rows: Sequence[tuple[int, ...]], length: int) -> Tensor:
    """States of one batch, `(batch, length, width)`, exactly as the pipeline computes them."""
    pad = components.tokenizer.pad_token_id
    device = components.text_device
    ids = torch.tensor([[*row, *[pad] * (length - len(row))] for row in rows], device=device)
    mask = None
    if getattr(components.text_encoder.config, "use_attention_mask", False):
        mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows], device=device)
    with evaluating(components.text_encoder):
        states: Tensor = components.text_encoder(ids, attention_mask=mask)[0]
    return states


def _is_causal(components: DiffusionComponents) -> bool:
    """Whether later tokens cannot change earlier states; CLIP's text model reads from left to right."""
    return str(getattr(components.text_encoder.config, "model_type", "")).startswith("clip")
