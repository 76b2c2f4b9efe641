"""Replay: prompts that the user has, from a published list or another attack, shown to this model.

Two uses:

    what is attacked    `file_items` makes one item of each row, with its seed; the attack judges each once
    what is tried       with `prompt_file`, every attacked prompt is replaced by the file's prompts in turn,
                        at its own seed, until one succeeds

Lists are read by `prompt_file`; none is shipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Self

import torch

from diffusers_erasure.errors import ConfigError
from diffusers_erasure.settings import setting

from .base import AttackedPrompt, AttackOutcome, AttackTarget
from .config import AttackConfig
from .prompt_file import FilePrompt, read_prompt_file
from .registry import Access, attack
from .tries import Try, try_in_turn


class ReplayConfig(AttackConfig):
    """Settings of replay."""

    prompt_file: Path | None = setting(
        None,
        "csv, jsonl or txt whose prompts are tried in place of each prompt; none: the prompts themselves",
    )
    tries: int = setting(10, "most prompts of the file that are tried in place of one", ge=1)
    early_stop: bool = setting(True, "end at the first success")

    @property
    def judged_images(self) -> int:
        """The plain prompt's picture, and one for each prompt of the file that is tried."""
        return 1 + (self.tries if self.prompt_file else 0)

    @property
    def work(self) -> int:
        """Pictures beyond the plain prompt's."""
        return max(1, self.judged_images - 1)

    def scaled(self, factor: int) -> Self:
        """`factor` times the tries."""
        return self.model_copy(update={"tries": factor * self.tries})


@attack("replay", config=ReplayConfig, access=Access.NONE)
def replay(
    items: Iterator[AttackedPrompt],
    target: AttackTarget,
    config: ReplayConfig,
    *,
    base: AttackTarget | None = None,
    report: Callable[[int], None],
) -> Iterator[AttackOutcome]:
    """Draw prompts of a file that the user gives."""
    del base
    known = [one.prompt for one in read_prompt_file(config.prompt_file)] if config.prompt_file else []

    def tries(item: AttackedPrompt) -> Iterator[Try]:
        for text in order_of(known, item, config):
            yield Try(target.own_ids(text), text, same=True, seed=item.seed, details={})

    yield from try_in_turn(
        items, target, tries, batch_size=config.batch_size, early_stop=config.early_stop, report=report
    )


def order_of(texts: Sequence[str], item: AttackedPrompt, config: ReplayConfig) -> list[str]:
    """Which prompts of a file are tried on an item: distinct ones, another random choice for each item."""
    distinct = list(dict.fromkeys(texts))
    order = torch.randperm(len(distinct), generator=item.generator(config.seed, "replay")).tolist()
    return [distinct[index] for index in order[: config.tries]]


def file_items(
    rows: Sequence[FilePrompt], concept: str, *, first_seed: int, origin: str = "the prompt file"
) -> list[AttackedPrompt]:
    """One item for each prompt of a file.

    Args:
        rows: The file's prompts.
        concept: The concept that their pictures may show.
        first_seed: Seeds of prompts without one count from here, by their place in the file.
        origin: Name of the file, for errors.

    Raises:
        ConfigError: A prompt stands there twice with one seed: its picture would be counted twice.
    """
    found: dict[AttackedPrompt, int] = {}
    for place, row in enumerate(rows):
        seed = first_seed + place if row.seed is None else row.seed
        item = AttackedPrompt(row.prompt, seed, concept)
        if item in found:
            raise ConfigError(
                f"{origin}, row {row.row}: the prompt {row.prompt[:60]!r} with seed {seed} stands in row "
                f"{found[item]} already; expected each prompt and seed once; remove one, or give it another "
                "seed"
            )
        found[item] = row.row
    return list(found)
