"""Which positions are mapped, and onto which."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusers_erasure.diffusion import TokenizedPrompt
from diffusers_erasure.training.token_positions import TokenPositions, align, needs_padding

LENGTH = 10
# Letters are tokens: ^ start, $ first end token; the word's positions are given.
VAN_GOGH = TokenizedPrompt("by van gogh!", tuple(range(7)), (2, 3, 4))  # ^ by van go gh ! $
ART = TokenizedPrompt("by art!", tuple(range(5)), (2,))  # ^ by art ! $
LONG = TokenizedPrompt("by an old master!", tuple(range(8)), (2, 3, 4, 5))  # ^ by an old mas ter ! $
NOTHING = TokenizedPrompt("", (0, 1))  # ^ $


@pytest.mark.parametrize(
    ("target", "policy", "expected"),
    [
        (ART, "concept-last-token", ((4, 2),)),
        (ART, "concept-tokens", ((4, 2), (3, 2), (2, 2))),
        (ART, "eot", ((6, 4),)),
        (ART, "eot+padding", ((6, 4), (7, 7), (8, 8), (9, 9))),
        (LONG, "concept-last-token", ((4, 5),)),
        (LONG, "concept-tokens", ((4, 5), (3, 4), (2, 3))),
        (LONG, "eot+padding", ((6, 7), (7, 7), (8, 8), (9, 9))),
        (NOTHING, "concept-last-token", ((4, 0),)),
        (NOTHING, "concept-tokens", ((4, 0), (3, 0), (2, 0))),
        (NOTHING, "eot", ((6, 1),)),
        (NOTHING, "eot+padding", ((6, 1), (7, 7), (8, 8), (9, 9))),
        (NOTHING, "all", tuple((position, position) for position in range(10))),
    ],
)
def test_positions(
    target: TokenizedPrompt, policy: TokenPositions, expected: tuple[tuple[int, int], ...]
) -> None:
    assert align(VAN_GOGH, target, policy, LENGTH) == expected


def test_all_aligns_each_part_of_the_sentence() -> None:
    found = dict(align(VAN_GOGH, ART, "all", LENGTH))
    assert found == {0: 0, 1: 1, 2: 2, 3: 2, 4: 2, 5: 3, 6: 4, 7: 7, 8: 8, 9: 9}


def test_what_stands_before_a_late_word_goes_no_further_than_the_other_word() -> None:
    late = TokenizedPrompt("a big church", tuple(range(5)), (3,))  # ^ a big church $
    early = TokenizedPrompt("dog", tuple(range(3)), (1,))  # ^ dog $
    found = dict(align(late, early, "all", LENGTH))
    assert [found[position] for position in range(4)] == [0, 1, 1, 1]


def test_only_two_need_padding() -> None:
    policies: tuple[TokenPositions, ...] = (
        "concept-last-token",
        "concept-tokens",
        "eot",
        "eot+padding",
        "all",
    )
    assert [needs_padding(policy) for policy in policies] == [False, False, False, True, True]


@st.composite
def prompts(draw: st.DrawFn) -> TokenizedPrompt:
    length = draw(st.integers(3, LENGTH))
    first = draw(st.integers(1, length - 2))
    last = draw(st.integers(first, length - 2))
    return TokenizedPrompt("", tuple(range(length)), tuple(range(first, last + 1)))


@settings(max_examples=100, deadline=None)
@given(source=prompts(), target=prompts(), policy=st.sampled_from(["concept-tokens", "eot+padding", "all"]))
def test_positions_exist_and_come_once(
    source: TokenizedPrompt, target: TokenizedPrompt, policy: TokenPositions
) -> None:
    found = align(source, target, policy, LENGTH)
    sources = [position for position, _ in found]
    assert len(set(sources)) == len(sources)
    assert all(0 <= position < LENGTH for pair in found for position in pair)
    if policy == "all":
        assert sorted(sources) == list(range(LENGTH))


@settings(max_examples=50, deadline=None)
@given(source=prompts(), policy=st.sampled_from(["concept-tokens", "eot+padding", "all"]))
def test_a_prompt_is_aligned_with_itself_position_by_position(
    source: TokenizedPrompt, policy: TokenPositions
) -> None:
    assert all(first == second for first, second in align(source, source, policy, LENGTH))
