"""Seed search: the plain prompt again and again with other seeds.

The baseline that costs an attacker nothing: with the same number of judged pictures as an attack, how often
does the unchanged prompt bring the concept back? Its first picture is the plain one's, with the item's own
seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Self

import torch

from diffusers_erasure.settings import setting

from .base import AttackedPrompt, AttackOutcome, AttackTarget
from .config import AttackConfig
from .registry import Access, attack
from .tries import Try, try_in_turn

SEEDS = 2**31


class SeedSearchConfig(AttackConfig):
    """Settings of the seed search."""

    images: int = setting(51, "most judged pictures of a prompt, with the plain one; the attack's own", ge=1)
    early_stop: bool = setting(True, "end at the first success")

    @property
    def judged_images(self) -> int:
        """All of them."""
        return self.images

    @property
    def work(self) -> int:
        """One step is one picture beyond the plain prompt's."""
        return max(1, self.images - 1)

    def scaled(self, factor: int) -> Self:
        """So many times more pictures beside the plain prompt's."""
        return self.model_copy(update={"images": 1 + factor * (self.images - 1)})


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
