"""No attack: the plain prompt's picture, judged once. Its rate is the pre-attack ASR."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from .base import AttackedPrompt, AttackOutcome, AttackTarget
from .config import AttackConfig
from .plain import judge_plain
from .progress import take
from .registry import Access, attack


class NoAttackConfig(AttackConfig):
    """Settings of no attack."""


@attack("no_attack", config=NoAttackConfig, access=Access.NONE)
def no_attack(
    items: Iterator[AttackedPrompt],
    target: AttackTarget,
    config: NoAttackConfig,
    *,
    base: AttackTarget | None = None,
    report: Callable[[int], None],
) -> Iterator[AttackOutcome]:
    """Draw and judge the plain prompt."""
    del base
    while batch := take(items, config.batch_size):
        started = time.monotonic()
        plain = judge_plain(batch, target)
        report(len(batch))
        for item, one in zip(batch, plain, strict=True):
            yield one.outcome(item, seconds=(time.monotonic() - started) / len(batch), steps=1)
