"""At least three seeds for every prompt, and the spread over them."""

from __future__ import annotations

import pytest

from diffusers_erasure.evaluation.seeds import few_seeds_flags, seed_spread

PROMPTS = ["prompt 0", "prompt 1"] * 3


def test_seeds_are_spread_over_groups() -> None:
    spread = seed_spread(PROMPTS, "110001")
    assert not isinstance(spread, str)
    assert [group.k for group in spread.groups] == [2, 0, 1]
    assert (spread.lowest, spread.highest) == (0, 1)


@pytest.mark.parametrize("count", [1, 4, 5])
def test_two_seeds_of_one_prompt_are_no_spread(count: int) -> None:
    assert seed_spread(PROMPTS[:count], "1" * count) == "not measured"
    (flag,) = few_seeds_flags(PROMPTS[:count])
    few = len(set(PROMPTS[:count])) - (count == 5)
    assert flag.startswith(f"few seeds: {few} of {len(set(PROMPTS[:count]))} prompts were drawn with fewer")


def test_three_seeds_of_every_prompt_are_enough() -> None:
    assert few_seeds_flags(PROMPTS) == []
