"""Seed search: the plain prompt again and again with other seeds.

The baseline that costs an attacker nothing: with the same number of judged pictures as an attack, how often
does the unchanged prompt bring the concept back? Its first picture is the plain one's, with the item's own
seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from .base import AttackedPrompt, AttackOutcome, AttackTarget
from .config import LuckConfig
from .registry import Access, attack
from .tries import Try, try_in_turn

SEEDS = 2**31


class SeedSearchConfig(LuckConfig):
    """Settings of the seed search."""


@attack("seed_search", config=SeedSearchConfig, access=Access.NONE)
def seed_search(
    items: Iterator[AttackedPrompt],
    target: AttackTarget,
    config: SeedSearchConfig,
    *,
    base: AttackTarget | None = None,
    report: Callable[[int], None],
) -> Iterator[AttackOutcome]:
    """Draw the plain prompt with other seeds, as many times as the attack shows pictures."""
    del base

    def tries(item: AttackedPrompt) -> Iterator[Try]:
        ids = target.own_ids(item.prompt)
        generator = item.generator(config.seed, "seed_search")
        for _ in range(config.images - 1):
            seed = int(torch.randint(SEEDS, (1,), generator=generator))
            yield Try(ids, item.prompt, True, seed, {})

    yield from try_in_turn(
        items, target, tries, batch_size=config.batch_size, early_stop=config.early_stop, report=report
    )
