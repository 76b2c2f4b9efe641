"""From pairs of prompts to rows of text states, and from retained prompts to their Gram matrix.

Both stream: prompts are encoded in batches, and only what is wanted of each batch is kept.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusers_erasure.diffusion import DiffusionComponents, TokenizedPrompt, distinct, encode, tokenize
from diffusers_erasure.errors import ConfigError
from diffusers_erasure.prompts import PromptPair

from .closed_form import PriorStatistics
from .token_positions import SlotWeights, TokenPositions, needs_padding, weighted_positions

logger = logging.getLogger(__name__)

_CHUNK = 256
"""Pairs whose states are in memory at once."""


@dataclass(frozen=True)
class AlignedPair:
    """Two tokenized prompts, the positions that are mapped with their weights, and how often it was given."""

    source: TokenizedPrompt
    target: TokenizedPrompt
    positions: tuple[tuple[int, int, float], ...]
    weight: int


@dataclass(frozen=True, eq=False)
class StateRows:
    """States as they are and as they shall be heard.

    Attributes:
        source: `(rows, width)`.
        target: `(rows, width)`.
        weight: `(rows,)`.
        count: What a mean over them divides by: their weights for a policy, in which every row is one of the
            sum; for TRCE's slots the number of pairs, whatever the slots weigh.
    """

    source: Tensor
    target: Tensor
    weight: Tensor
    count: float

    @classmethod
    def joined(cls, blocks: Sequence[StateRows]) -> StateRows:
        """Some blocks as one."""
        return cls(
            torch.cat([block.source for block in blocks]),
            torch.cat([block.target for block in blocks]),
            torch.cat([block.weight for block in blocks]),
            sum(block.count for block in blocks),
        )


def align_pairs(
    components: DiffusionComponents, pairs: Sequence[PromptPair], policy: TokenPositions | SlotWeights
) -> tuple[AlignedPair, ...]:
    """Tokenize pairs and find their positions; pairs with the same tokens become one with more weight.

    A wording so long that the concept falls off its end teaches nothing; it is left out with a warning.

    Raises:
        ConfigError: No wording is left.
    """
    limit = components.max_tokens
    too_long: ConfigError | None = None
    found: dict[tuple[object, ...], AlignedPair] = {}
    for pair in pairs:
        try:
            source = tokenize(components.tokenizer, pair.source, word=pair.source_word, max_tokens=limit)
            target = tokenize(components.tokenizer, pair.target, word=pair.target_word, max_tokens=limit)
        except ConfigError as error:
            logger.warning("left out: %s", error)
            too_long = error
            continue
        positions = weighted_positions(source, target, policy, limit)
        key = (source.ids, target.ids, positions)
        before = found[key].weight if key in found else 0
        found[key] = AlignedPair(source, target, positions, before + 1)
    if too_long is not None and not found:
        raise too_long
    return tuple(found.values())


def state_rows(
    components: DiffusionComponents,
    pairs: Sequence[AlignedPair],
    policy: TokenPositions | SlotWeights,
    *,
    batch_size: int,
    progress: Callable[[int], None],
) -> Iterator[StateRows]:
    """Encode aligned pairs and take their rows, some hundred pairs at a time.

    Args:
        components: Whose text encoder.
        pairs: What `align_pairs` gave.
        policy: The same as there.
        batch_size: Prompts that are encoded at once.
        progress: Called with the number of pairs that are done.
    """
    for start in range(0, len(pairs), _CHUNK):
        chunk = pairs[start : start + _CHUNK]
        prompts, numbers = distinct([prompt for pair in chunk for prompt in (pair.source, pair.target)])
        states = _all_states(components, prompts, padded=needs_padding(policy), batch_size=batch_size)
        source, target = numbers[::2], numbers[1::2]
        weight = torch.tensor(
            [pair.weight * weight for pair in chunk for _, _, weight in pair.positions], dtype=torch.float64
        )
        slots = isinstance(policy, SlotWeights)
        yield StateRows(
            source=torch.cat([_rows(states[n], pair, 0) for n, pair in zip(source, chunk, strict=True)]),
            target=torch.cat([_rows(states[n], pair, 1) for n, pair in zip(target, chunk, strict=True)]),
            weight=weight,
            count=float(sum(pair.weight for pair in chunk)) if slots else float(weight.sum()),
        )
        progress(start + len(chunk))


def prior_statistics(
    components: DiffusionComponents,
    prompts: Sequence[str],
    *,
    padded: bool,
    batch_size: int,
    progress: Callable[[int], None],
) -> PriorStatistics:
    """Gram matrix of every state of some prompts, padding included where it is asked for.

    Args:
        components: Whose text encoder.
        prompts: What must stay; repetitions count once.
        padded: Encode at the model's full length, as a pipeline does.
        batch_size: Prompts that are encoded at once.
        progress: Called with the number of prompts that are done.
    """
    limit = components.max_tokens
    tokens, _ = distinct([tokenize(components.tokenizer, text, max_tokens=limit) for text in prompts])
    total, done = PriorStatistics.empty(components.text_width), 0
    for batch in encode(components, tokens, padded=padded, batch_size=batch_size):
        states = batch.states.detach().cpu()
        if padded:
            rows = states.flatten(0, 1)
        else:
            rows = torch.cat([state[:length] for state, length in zip(states, batch.lengths, strict=True)])
        total = total + PriorStatistics.of(rows)
        done += len(batch.indices)
        progress(done)
    return total


def _all_states(
    components: DiffusionComponents, prompts: Sequence[TokenizedPrompt], *, padded: bool, batch_size: int
) -> dict[int, Tensor]:
    """States by the number of the prompt, each `(tokens, width)` on the CPU."""
    found: dict[int, Tensor] = {}
    for batch in encode(components, prompts, padded=padded, batch_size=batch_size):
        found.update(zip(batch.indices, batch.states.detach().cpu(), strict=True))
    return found


def _rows(states: Tensor, pair: AlignedPair, side: int) -> Tensor:
    return states[[int(position[side]) for position in pair.positions]]
