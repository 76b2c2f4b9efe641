"""Prompts in which a learned word stands: where, in tokens, and with what embeddings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from diffusers_erasure.diffusion.soft_prompt import ordinary_tokens
from diffusers_erasure.diffusion.text import tokenize
from diffusers_erasure.diffusion.text_path import TextPath
from diffusers_erasure.errors import ConfigError


@dataclass(frozen=True)
class Placeholder:
    """A prompt with a place for a learned word.

    Attributes:
        ids: Token ids, padded, with an ordinary token at each place.
        positions: Where the learned embeddings stand; they are repeated where the word stands twice.
    """

    ids: tuple[int, ...]
    positions: tuple[int, ...]


def with_placeholder(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    words: Sequence[str],
    vectors: int,
    *,
    max_tokens: int,
) -> Placeholder:
    """Put a learned word where one of the given words stands, everywhere; else in front of the prompt.

    A prompt that is too long loses its end, as typing it would.

    Args:
        tokenizer: The pipeline's tokenizer.
        prompt: The prompt.
        words: Words for the concept; the first that the prompt has is replaced.
        vectors: Embeddings of the learned word.
        max_tokens: Tokens that the text encoder reads.

    Raises:
        ConfigError: The learned word would stand beyond the tokens that the encoder reads.
    """
    word = next((one for one in words if _says(prompt, one)), "")
    tokens = tokenize(tokenizer, prompt, word=word, max_tokens=10 * max_tokens)
    stand_in = int(ordinary_tokens(tokenizer)[0])
    start, *rest = tokens.ids
    inside = set(tokens.word)
    ids = [start]
    positions: list[int] = []
    if not inside:
        positions += range(1, 1 + vectors)
        ids += [stand_in] * vectors
    for place, token in enumerate(rest, start=1):
        if place not in inside:
            ids.append(token)
        elif place - 1 not in inside:
            positions += range(len(ids), len(ids) + vectors)
            ids += [stand_in] * vectors
    if len(ids) > max_tokens:
        ids = [*ids[: max_tokens - 1], ids[-1]]
    if positions[-1] >= len(ids) - 1:
        raise ConfigError(
            f"{prompt!r} has its learned word of {vectors} embeddings at token {positions[-1]}; the text "
            f"encoder reads {max_tokens}; shorten the prompt or learn fewer embeddings"
        )
    ids += [int(tokenizer.pad_token_id)] * (max_tokens - len(ids))
    return Placeholder(tuple(ids), tuple(positions))


def stack_embeddings(
    text: TextPath, rows: Sequence[Placeholder], words: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Token ids `(rows, tokens)` and token embeddings `(rows, tokens, width)` with learned words in place.

    Args:
        text: Whose token embeddings.
        rows: The prompts.
        words: Embeddings of each row's word, `(vectors, width)`; gradients go to these.
    """
    ids = torch.tensor([row.ids for row in rows], device=text.device)
    plain = text.token_embeddings(ids).detach()
    filled = [
        one.index_copy(
            0,
            torch.tensor(row.positions, device=one.device),
            word.to(one).repeat(len(row.positions) // len(word), 1),
        )
        for one, row, word in zip(plain, rows, words, strict=True)
    ]
    return ids, torch.stack(filled) if filled else plain


def _says(prompt: str, word: str) -> bool:
    pattern = r"\s+".join(map(re.escape, word.split()))
    return re.search(rf"(?<!\w){pattern}(?!\w)", prompt, re.IGNORECASE) is not None
