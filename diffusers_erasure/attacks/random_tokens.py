"""Random tokens: what as many judged pictures find without any search.

An attack that shows the judge 51 pictures has 51 chances, and a judge that errs once in a hundred makes 40 %
successes of them. So beside every attack stands this one, with as many pictures (`images`), the same
number of free tokens in the same place, and the same seed: what an attack finds beyond it is its merit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import torch

from diffusers_erasure.diffusion.soft_prompt import Placement, SoftPrompt, ordinary_tokens
from diffusers_erasure.settings import setting

from .base import AttackedPrompt, AttackOutcome, AttackTarget
from .config import LuckConfig
from .fitting import free_prompt, typed
from .registry import Access, attack
from .tries import Try, try_in_turn


class RandomTokensConfig(LuckConfig):
    """Settings of random tokens."""

    tokens: int = setting(3, "free tokens", symbol="k", ge=1)
    placement: Literal["prefix", "suffix", "middle", "insert", "replace"] = setting(
        "prefix", "where the free tokens stand in the prompt"
    )


@attack("random_tokens", config=RandomTokensConfig, access=Access.NONE)
def random_tokens(
    items: Iterator[AttackedPrompt],
    target: AttackTarget,
    config: RandomTokensConfig,
    *,
    base: AttackTarget | None = None,
    report: Callable[[int], None],
) -> Iterator[AttackOutcome]:
    """Put random tokens into the prompt, as many times as the attack shows pictures."""
    del base
    ordinary = ordinary_tokens(target.text.tokenizer, target.text.embedding_matrix.shape[0])

    def tries(item: AttackedPrompt) -> Iterator[Try]:
        prompt, cut = free_prompt(target, item.prompt, config.tokens, Placement(config.placement))
        generator = item.generator(config.seed, "random_tokens")
        for _ in range(config.images - 1):
            drawn = ordinary[torch.randint(len(ordinary), (config.tokens,), generator=generator)]
            yield _typed_try(target, prompt, drawn, item.seed, cut)

    yield from try_in_turn(
        items, target, tries, batch_size=config.batch_size, early_stop=config.early_stop, report=report
    )


def _typed_try(target: AttackTarget, prompt: SoftPrompt, drawn: torch.Tensor, seed: int, cut: int) -> Try:
    """The picture of the text that the tokens are, as in UnlearnDiffAtk."""
    ids = tuple(prompt.fill(drawn).tolist()[: prompt.end + 1])
    text, again = typed(target, ids)
    return Try(again, text, again == ids, seed, {"prompt_tokens_cut": cut})
