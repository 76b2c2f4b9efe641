"""Where the free tokens of an attacked prompt stand, counted in tokens.

An attack adds k tokens of its choice to a prompt, as embeddings `delta` (soft) or as ids (hard). With w the
prompt's tokens between start [S] and end [E], and everything padded to the model's length:

    prefix        [S] d d w w w [E]        the default of AdvUnlearn and UnlearnDiffAtk
    suffix        [S] w w w d d [E]
    middle        [S] w d d w w [E]
    insert        [S] d w d w w [E]        spread evenly
    per_k_words   [S] d w w w d w [E]      one before every 3 tokens, so their number follows from the prompt
    replace       [S] d d [E]              the prompt itself is gone
    add           [S] w+d w+d w+d [E]      added to the prompt's own embeddings, one for each token

The authors' code counts words, so that a concept of several tokens loses all but its first; here everything
is counted in tokens, nothing is dropped, and what does not fit is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from diffusers_erasure.errors import ConfigError

from .text import NO_LIMIT, TokenizedPrompt, tokenize

_TOKENS_PER_SOFT_TOKEN = 3  # of `per_k_words`, AdvUnlearn utils/attack_util.py


class Placement(StrEnum):
    """Where soft tokens stand; see the module's text."""

    PREFIX = "prefix"
    SUFFIX = "suffix"
    MIDDLE = "middle"
    INSERT = "insert"
    PER_K_WORDS = "per_k_words"
    REPLACE = "replace"
    ADD = "add"


class SoftPrompt:
    """A prompt with k free tokens in it.

    Attributes:
        text: The prompt.
        count: Number k of free tokens; for `per_k_words` and `add` it follows from the prompt.
        placement: Where they stand.
        ids: Token ids up to the model's length, `(tokens,)`, with an ordinary token at each free place.
        positions: Where the free tokens stand.
        word_positions: Where the prompt's own tokens stand.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        prompt: str | TokenizedPrompt,
        count: int,
        placement: Placement | str = Placement.PREFIX,
        *,
        max_tokens: int | None = None,
    ) -> None:
        """Lay the tokens out.

        Args:
            tokenizer: The pipeline's tokenizer.
            prompt: The prompt, in words or as tokens.
            count: Number k of free tokens, at least 1.
            placement: Where they stand.
            max_tokens: Tokens that the text encoder reads; the tokenizer's limit unless given.

        Raises:
            ConfigError: The placement is unknown, there is no token to add to, or it does not fit.
        """
        tokenized = tokenize(tokenizer, prompt, max_tokens=NO_LIMIT) if isinstance(prompt, str) else prompt
        self.placement = _placement(placement)
        self.text = tokenized.text
        start, *words, end = tokenized.ids
        length = max_tokens or int(tokenizer.model_max_length)
        soft = _layout(self.placement, len(words), _count(self.placement, count, len(words), tokenized.text))
        self.count = sum(soft)
        if len(soft) + 2 > length:
            raise ConfigError(
                f"{tokenized.text!r} with {self.count} free tokens ({self.placement}) takes {len(soft) + 2} "
                f"tokens; the text encoder reads {length}, start and end included; shorten the prompt or use "
                f"fewer free tokens"
            )
        self.positions = tuple(place for place, free in enumerate(soft, 1) if free)
        added = self.placement is Placement.ADD
        self.word_positions = tuple(place for place, free in enumerate(soft, 1) if added or not free)
        remaining = iter(words)
        stand_in = _ordinary_token(tokenizer)
        inner = [stand_in if free and not added else next(remaining) for free in soft]
        row = [start, *inner, end]
        self.ids = torch.tensor([*row, *[tokenizer.pad_token_id] * (length - len(row))])
        self._end = len(row) - 1

    @property
    def end(self) -> int:
        """Position of the first end token."""
        return self._end

    def embeddings(self, token_embeddings: Tensor, delta: Tensor) -> Tensor:
        """Token embeddings with the free ones in place, differentiable in both.

        Args:
            token_embeddings: Those of `ids`, `(1, tokens, width)` or `(batch, tokens, width)`.
            delta: The free ones, `(batch, k, width)` or `(k, width)`.

        Returns:
            `(batch, tokens, width)`, in the dtype of `token_embeddings`.
        """
        free = delta.unsqueeze(0) if delta.ndim == 2 else delta
        batch = max(free.shape[0], token_embeddings.shape[0])
        expected = (self.count, token_embeddings.shape[-1])
        if free.shape[1:] != expected or token_embeddings.shape[1] != len(self.ids):
            raise ConfigError(
                f"free tokens of shape {tuple(delta.shape)} came for token embeddings of shape "
                f"{tuple(token_embeddings.shape)}; expected (batch, {expected[0]}, {expected[1]}) and "
                f"{len(self.ids)} tokens; take the embeddings of this prompt's ids"
            )
        free = free.to(token_embeddings).expand(batch, -1, -1)
        full = token_embeddings.expand(batch, -1, -1)
        places = torch.tensor(self.positions, device=full.device)
        if self.placement is Placement.ADD:
            return full.index_add(1, places, free)
        return full.index_copy(1, places, free)

    def fill(self, free: Sequence[int] | Tensor) -> Tensor:
        """Token ids with these ids at the free places.

        Args:
            free: `(k,)` or `(batch, k)`.

        Returns:
            `(tokens,)` or `(batch, tokens)`.

        Raises:
            ConfigError: There are not k of them, or the free tokens are added to others (`add`).
        """
        given = torch.as_tensor(free, dtype=torch.long)
        if given.shape[-1] != self.count or self.placement is Placement.ADD:
            raise ConfigError(
                f"{tuple(given.shape)} token ids cannot stand at {self.count} places ({self.placement}); "
                f"expected {self.count} ids and a placement that gives them places of their own; take prefix"
            )
        ids = self.ids.to(given.device).expand(*given.shape[:-1], -1).clone()
        ids[..., torch.tensor(self.positions, device=given.device)] = given
        return ids


def ordinary_tokens(tokenizer: PreTrainedTokenizerBase, vocabulary: int | None = None) -> Tensor:
    """Ids of every token that is not special, ascending: what random and hard tokens are chosen from.

    Args:
        tokenizer: The pipeline's tokenizer.
        vocabulary: Rows of the encoder's embedding, where it has fewer than the tokenizer knows.
    """
    size = len(tokenizer) if vocabulary is None else min(vocabulary, len(tokenizer))
    special = set(tokenizer.all_special_ids)
    return torch.tensor([token for token in range(size) if token not in special])


def _placement(placement: Placement | str) -> Placement:
    try:
        return Placement(placement)
    except ValueError as error:
        raise ConfigError(
            f"there is no placement {placement!r}; expected one of {', '.join(Placement)}; prefix is usual"
        ) from error


def _count(placement: Placement, count: int, words: int, text: str) -> int:
    """How many free tokens there are."""
    if count < 1:
        raise ConfigError(f"{count} free tokens were asked for; expected at least 1; set the count to 1")
    if placement is Placement.PER_K_WORDS:
        count = -(-words // _TOKENS_PER_SOFT_TOKEN)
    elif placement is Placement.ADD:
        count = words
    if count == 0:
        raise ConfigError(
            f"{text!r} has no token to place free ones by ({placement}); expected a prompt with a word; use "
            f"prefix, which needs none"
        )
    return count


def _layout(placement: Placement, words: int, count: int) -> list[bool]:
    """For every place between start and end token, whether it is free."""
    match placement:
        case Placement.PREFIX:
            return [True] * count + [False] * words
        case Placement.SUFFIX:
            return [False] * words + [True] * count
        case Placement.MIDDLE:
            half = words // 2
            return [False] * half + [True] * count + [False] * (words - half)
        case Placement.INSERT:
            return _spread([number * words // count for number in range(count)], words)
        case Placement.PER_K_WORDS:
            return _spread([number * _TOKENS_PER_SOFT_TOKEN for number in range(count)], words)
        case Placement.REPLACE | Placement.ADD:
            return [True] * count


def _spread(before: list[int], words: int) -> list[bool]:
    """Free tokens in front of these words."""
    layout = []
    for word in range(words + 1):
        layout += [True] * before.count(word) + [False] * (word < words)
    return layout


def _ordinary_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """A token that ends nothing: the first that is not special."""
    special = set(tokenizer.all_special_ids)
    return next(token for token in range(len(tokenizer)) if token not in special)
