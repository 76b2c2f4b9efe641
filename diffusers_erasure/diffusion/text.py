"""Prompts to tokens to text states, and where in them a concept stands.

Positions come from the tokenizer, never from counting words: a concept may be several tokens, and the pad
token may or may not be the end token.

    position 0        the start token [SoT]
    concept tokens    those whose characters overlap the concept's word
    end               the first end token [EoT], which has read the whole prompt
    after it          padding, up to the model's length; it has read the prompt too

A causal text encoder gives the states of a prompt without its padding just as well at the prompt's own
length, so `encode` spends no work on padding unless it is asked for.

Where a pipeline has two text encoders (SDXL), its cross-attention reads the states before the last layer of
both, side by side. Both tokenizers must then give the same tokens up to the first end token, so that
positions hold for both; what stands after it may differ, and each encoder gets its own padding.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from diffusers_erasure.errors import ConfigError

from .components import DiffusionComponents, device_of_ids, evaluating

NO_LIMIT = 1_000_000
"""As `max_tokens`: the prompt is not cut."""


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

    Raises:
        ConfigError: A second tokenizer splits a prompt otherwise than the first.
    """
    padded = padded or not _is_causal(components)
    order = sorted(range(len(prompts)), key=lambda index: (len(prompts[index].ids), index))
    for start in range(0, len(order), batch_size):
        indices = tuple(order[start : start + batch_size])
        chosen = [prompts[index] for index in indices]
        rows = [prompt.ids for prompt in chosen]
        length = components.max_tokens if padded else max(map(len, rows))
        if components.text_encoder_2 is None:
            states = _states(components, rows, length)
        else:
            states = _states_of_both(components, chosen, length)
        yield EncodedBatch(indices, states, tuple(map(len, rows)))


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
    device = components.text_device
    ids = _padded_ids(components.tokenizer, rows, length, device)
    mask = None
    if getattr(components.text_encoder.config, "use_attention_mask", False):
        mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows], device=device)
    with evaluating(components.text_encoder):
        states: Tensor = components.text_encoder(ids, attention_mask=mask)[0]
    return states


def _states_of_both(
    components: DiffusionComponents, prompts: Sequence[TokenizedPrompt], length: int
) -> Tensor:
    """States of one batch from two encoders, `(batch, length, both widths)`, as SDXL's pipeline makes them.

    That is each encoder's states before its last layer, in the dtype of the second, without a mask
    (arXiv:2307.01952, section 2.1; `encode_prompt` of diffusers).
    """
    first, (tokenizer_2, encoder_2) = components.text_encoders
    ids = [prompt.ids for prompt in prompts]
    ids_2 = [_second_ids(tokenizer_2, prompt, components.max_tokens) for prompt in prompts]
    states = _before_last_layer(*first, ids, length)
    states_2 = _before_last_layer(tokenizer_2, encoder_2, ids_2, length)
    return torch.cat([states.to(states_2.device), states_2], dim=-1).to(encoder_2.dtype)


def _second_ids(tokenizer: PreTrainedTokenizerBase, prompt: TokenizedPrompt, limit: int) -> tuple[int, ...]:
    """Ids of a prompt for the second encoder: those of the first, token for token.

    Where the second tokenizer's pad token is a word, as SDXL's "!", it has the pad token's id in prompts too.

    Raises:
        ConfigError: They are other tokens.
    """
    ids = tokenize(tokenizer, prompt.text, max_tokens=limit).ids
    pad = tokenizer.pad_token_id
    same = [theirs in (ours, pad) for ours, theirs in zip(prompt.ids, ids, strict=False)]
    if len(ids) != len(prompt.ids) or not all(same):
        raise ConfigError(
            f"the second tokenizer reads {prompt.text!r} as {len(ids)} tokens {list(ids)}, the first as "
            f"{len(prompt.ids)} tokens {list(prompt.ids)}; both must read the same tokens, for positions to "
            f"hold in both; change the wording (some read '!!' differently), or load the tokenizers that "
            f"belong to the pipeline"
        )
    return ids


def _before_last_layer(
    tokenizer: PreTrainedTokenizerBase,
    encoder: PreTrainedModel,
    rows: Sequence[tuple[int, ...]],
    length: int,
) -> Tensor:
    """What the last layer of an encoder reads, `(batch, length, width)`; no norm follows it."""
    ids = _padded_ids(tokenizer, rows, length, device_of_ids(encoder))
    with evaluating(encoder):
        states: Tensor = encoder(ids, output_hidden_states=True).hidden_states[-2]
    return states


def _padded_ids(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[tuple[int, ...]], length: int, device: torch.device
) -> Tensor:
    """Ids `(batch, length)`, with this tokenizer's padding after each row."""
    pad = tokenizer.pad_token_id
    return torch.tensor([[*row, *[pad] * (length - len(row))] for row in rows], device=device)


def _is_causal(components: DiffusionComponents) -> bool:
    """Whether later tokens cannot change earlier states; CLIP's text model reads from left to right.

    A second encoder is always CLIP's (see `DiffusionComponents.from_pipeline`).
    """
    return str(getattr(components.text_encoder.config, "model_type", "")).startswith("clip")
