"""The canary's prompts: few, spread over all that is erased."""

from __future__ import annotations

import pytest

from diffusers_erasure.artifacts.canary import choose_prompts

LETTERS = "abcdefghijklmnopqrstuvwxyz"


@pytest.mark.parametrize(
    ("count", "chosen"), [(0, ""), (1, "a"), (4, "abcd"), (7, "abcd"), (8, "aceg"), (26, "agms")]
)
def test_at_most_four_prompts_are_chosen_at_even_distances(count: int, chosen: str) -> None:
    assert choose_prompts(list(LETTERS[:count])) == tuple(chosen)
