"""Which token positions of a prompt are mapped, and onto which of its counterpart.

    concept-last-token   the concept's last token                              (UCE's released code)
    concept-tokens       every token of the concept
    eot                  the first end token [EoT], which has read the whole prompt   (TRCE)
    eot+padding          [EoT] and all padding after it
    all                  every position

Words of different length are aligned from their last token backwards; what has no partner goes to the first
token of the other word. Padding goes to the padding at the same position. Without an anchor there is no
word to align with: the concept's tokens then go to the token before [EoT], as in the released code, and
`all` keeps each position.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from diffusers_erasure.diffusion import TokenizedPrompt

TokenPositions = Literal["concept-last-token", "concept-tokens", "eot", "eot+padding", "all"]
PositionPairs = tuple[tuple[int, int], ...]
"""Positions of the source, each with its position of the target."""


def needs_padding(policy: TokenPositions) -> bool:
    """Whether prompts must be encoded at the model's full length."""
    return policy in ("eot+padding", "all")


def align(
    source: TokenizedPrompt, target: TokenizedPrompt, policy: TokenPositions, length: int
) -> PositionPairs:
    """Pairs of positions, of `source` and of `target`.

    Args:
        source: Prompt with the concept, with its word's positions.
        target: Prompt with the anchor, with its word's positions; none if the anchor is empty.
        policy: Which positions of `source` are mapped.
        length: Tokens of a padded prompt.
    """
    return tuple(_ALIGNERS[policy](source, target, length))


def _last_token(source: TokenizedPrompt, target: TokenizedPrompt, length: int) -> Iterator[tuple[int, int]]:
    del length
    yield source.word[-1], _partners(target)[-1]


def _word(source: TokenizedPrompt, target: TokenizedPrompt, length: int) -> Iterator[tuple[int, int]]:
    del length
    yield from _from_the_end(source.word, _partners(target))


def _end(source: TokenizedPrompt, target: TokenizedPrompt, length: int) -> Iterator[tuple[int, int]]:
    del length
    yield source.end, target.end


def _tail(source: TokenizedPrompt, target: TokenizedPrompt, length: int) -> Iterator[tuple[int, int]]:
    yield source.end, target.end
    for position in range(source.end + 1, length):
        yield position, max(position, target.end)


def _everything(source: TokenizedPrompt, target: TokenizedPrompt, length: int) -> Iterator[tuple[int, int]]:
    if not target.word:
        yield from ((position, position) for position in range(length))
        return
    first, last = source.word[0], source.word[-1]
    for position in range(first):
        yield position, min(position, target.word[0])
    yield from _from_the_end(range(first, last + 1), range(target.word[0], target.word[-1] + 1))
    yield from _from_the_end(range(last + 1, source.end), range(target.word[-1], target.end))
    yield from _tail(source, target, length)


def _partners(target: TokenizedPrompt) -> tuple[int, ...]:
    return target.word or (target.end - 1,)


def _from_the_end(source: Sequence[int], target: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Last with last, and so on backwards; the first of `target` takes what is left over."""
    for back, position in enumerate(reversed(source), start=1):
        yield position, target[-min(back, len(target))]


_ALIGNERS: dict[
    TokenPositions, Callable[[TokenizedPrompt, TokenizedPrompt, int], Iterator[tuple[int, int]]]
] = {
    "concept-last-token": _last_token,
    "concept-tokens": _word,
    "eot": _end,
    "eot+padding": _tail,
    "all": _everything,
}
