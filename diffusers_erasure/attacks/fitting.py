"""Hard tokens and typed text: making room for free tokens, and what a user would have to type."""

from __future__ import annotations

from collections.abc import Sequence

from diffusers_erasure.diffusion.soft_prompt import Placement, SoftPrompt
from diffusers_erasure.diffusion.text import NO_LIMIT, TokenizedPrompt, tokenize

from .base import AttackTarget


def free_prompt(
    target: AttackTarget, prompt: str, count: int, placement: Placement
) -> tuple[SoftPrompt, int]:
    """A prompt with room for free tokens; what is too long loses its end, as typing it would.

    (The authors' evaluation of UnlearnDiffAtk leaves prompts of more than 60 tokens out of the attack but in
    the number that successes are divided by.)

    Returns:
        The prompt, and how many tokens of it were cut off.
    """
    tokenizer, length = target.components.tokenizer, target.components.max_tokens
    start, *words, end = tokenize(tokenizer, prompt, max_tokens=NO_LIMIT).ids
    room = len(words) if placement is Placement.REPLACE else max(0, length - 2 - count)
    fitting = TokenizedPrompt(prompt, (start, *words[:room], end))
    made = SoftPrompt(tokenizer, fitting, count, placement, max_tokens=length)
    return made, max(0, len(words) - room)


def typed(target: AttackTarget, ids: Sequence[int]) -> tuple[str, tuple[int, ...]]:
    """The text of token ids, and the ids that typing it gives; both without padding.

    They are the same ids unless a token is no text of its own: half a character, or the inside of a word.
    """
    text = target.components.tokenizer.decode(
        list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    assert isinstance(text, str)  # a list only comes from a list of lists
    return text, target.own_ids(text)
