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

TRCE (arXiv:2503.07389) gives every slot of a prompt a weight instead: `SlotWeights`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from diffusers_erasure.diffusion import TokenizedPrompt

TokenPositions = Literal["concept-last-token", "concept-tokens", "eot", "eot+padding", "all"]
PositionPairs = tuple[tuple[int, int], ...]
"""Positions of the source, each with its position of the target."""
KeywordTarget = Literal["last-eot", "anchor"]


@dataclass(frozen=True)
class SlotWeights:
    """How much each slot of a prompt counts in TRCE's objective; 0 leaves it as it is.

    Attributes:
        sot: The start token [SoT], to [SoT] of the safe prompt.
        eot: The first end token [EoT], to the first one of the safe prompt.
        padding: Each [EoT] that pads the prompt, to the one at the same position.
        keyword: Each token of the concept [KEY], to `keyword_target`.
        keyword_target: The safe prompt's last [EoT], as in the authors' code, or the anchor's own tokens.
        by_words: Find the first [EoT] by counting words, as the authors' code does: that is inside the prompt
            wherever a word is several tokens. For comparison only.
    """

    sot: float = 0.0
    eot: float = 1.0
    padding: float = 0.0
    keyword: float = 0.0
    keyword_target: KeywordTarget = "last-eot"
    by_words: bool = False

    @property
    def reads_last(self) -> bool:
        """Whether states of padding are read, which then must be [EoT]s too."""
        return bool(self.padding) or (bool(self.keyword) and self.keyword_target == "last-eot")


def needs_padding(rule: TokenPositions | SlotWeights) -> bool:
    """Whether prompts must be encoded at the model's full length."""
    if isinstance(rule, SlotWeights):
        return rule.reads_last
    return rule in ("eot+padding", "all")


def weighted_positions(
    source: TokenizedPrompt, target: TokenizedPrompt, rule: TokenPositions | SlotWeights, length: int
) -> tuple[tuple[int, int, float], ...]:
    """Position of `source`, position of `target` and weight of everything that is mapped.

    Args:
        source: Prompt with the concept; with its word's positions, where the rule asks for the word.
        target: Its safe counterpart, likewise.
        rule: A policy, in which everything weighs 1, or the weight of each slot.
        length: Tokens of a padded prompt.
    """
    if not isinstance(rule, SlotWeights):
        return tuple((first, second, 1.0) for first, second in align(source, target, rule, length))
    slots = (
        (rule.sot, iter(((0, 0),))),
        (rule.eot, _counted_end(source, target) if rule.by_words else _end(source, target, length)),
        (rule.padding, _padding(source, target, length)),
        (rule.keyword, _keyword(source, target, rule, length)),
    )
    return tuple((first, second, weight) for weight, slot in slots if weight for first, second in slot)


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
    yield from _padding(source, target, length)


def _padding(source: TokenizedPrompt, target: TokenizedPrompt, length: int) -> Iterator[tuple[int, int]]:
    for position in range(source.end + 1, length):
        yield position, max(position, target.end)


def _keyword(
    source: TokenizedPrompt, target: TokenizedPrompt, rule: SlotWeights, length: int
) -> Iterator[tuple[int, int]]:
    if rule.keyword_target == "anchor":
        yield from _word(source, target, length)
        return
    for position in source.word:
        yield position, length - 1


def _counted_end(source: TokenizedPrompt, target: TokenizedPrompt) -> Iterator[tuple[int, int]]:
    """Where [EoT] would be if every word were one token."""
    first, second = (min(1 + len(prompt.text.split()), prompt.end) for prompt in (source, target))
    yield first, second


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
