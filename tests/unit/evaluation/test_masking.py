"""Flags of a search that seems to fail because something hides the way: each fault raises its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from diffusers_erasure.attacks import Access, AttackOutcome
from diffusers_erasure.evaluation.masking import (
    Transfer,
    access_flags,
    plain_flags,
    run_flags,
    stability_flags,
    transfer_flags,
)
from tests.unit.evaluation.counted_runs import N, outcomes, run


def test_a_search_without_a_gradient_is_flagged() -> None:
    assert "zero gradient" in run_flags(outcomes(0, zero_gradient=True))[0]
    assert run_flags(outcomes(0)) == []


def losing(successes: int, lasts: Sequence[float], **changes: Any) -> list[AttackOutcome]:
    """Searches whose losses begin at 1, each a little apart."""
    found = outcomes(successes, **changes)
    return [
        replace(one, loss_first=1 + index / 1000, loss_last=last)
        for index, (one, last) in enumerate(zip(found, lasts, strict=True))
    ]


def test_a_loss_that_falls_in_vain_is_flagged() -> None:
    assert "loss without success" in run_flags(losing(0, [0.5] * N))[0]
    assert run_flags(losing(1, [0.5] * N)) == []
    assert run_flags(losing(0, [0.99] * N)) == []


def test_a_loss_of_noise_alone_is_not_said_to_fall() -> None:
    """With a random noise level a loss falls in about half of the searches, and a median of them may too."""
    assert run_flags(losing(0, [0.5] * 12 + [2.0] * 8)) == []
    shared = [replace(one, loss_first=1.0, loss_last=0.5) for one in outcomes(0)]
    assert run_flags(shared) == [], "one word for all prompts is one search"


def test_losses_of_different_noise_levels_are_not_compared() -> None:
    """UnlearnDiffAtk begins where noise is hard to see and ends where it is easy: its loss always falls."""
    assert run_flags(losing(0, [0.02] * N, details={"levels": 10})) == []
    assert run_flags(losing(0, [0.02] * N, details={"levels": 1})) != []


def test_who_knows_less_must_not_find_more() -> None:
    white, black = run(4).record, run(6, name="ringing", access=Access.BLACK_BOX).record
    assert "black beats white" in access_flags([white, black])[0]
    assert access_flags([black]) == []
    assert access_flags([run(6).record, black]) == []


def test_transferred_prompts_must_not_do_better() -> None:
    assert "transfer beats" in transfer_flags([Transfer("weak eraser", 10, 6, 3)])[0]
    assert transfer_flags([Transfer("weak eraser", 10, 3, 3)]) == []


def test_pictures_that_change_at_a_fixed_seed_are_flagged() -> None:
    first = torch.full((2, 3, 4, 4), 100, dtype=torch.uint8)
    second = first.clone()
    second[1, 0, 0, 0] = 102
    assert stability_flags(first, second) == []
    second[1, 0, 0, 0] = 103
    assert "1 of 2 pictures change" in stability_flags(first, second)[0]
    assert "otherwise than" in plain_flags([run(3, plain=1).record, run(3, plain=2).record])[0]


def test_pictures_count_as_judged_otherwise_in_either_direction() -> None:
    for first, second in ((1, 2), (2, 1)):
        flags = plain_flags([run(3, plain=first).record, run(3, plain=second).record])
        assert "judged 1 plain pictures otherwise" in flags[0]


def test_who_knows_less_is_held_against_the_best_that_knows_more() -> None:
    white = [run(successes, name=f"search {successes}").record for successes in (2, 6, 3)]
    black = run(5, name="ringing", access=Access.BLACK_BOX).record
    assert access_flags([*white, black]) == []
    assert "search 3, on 3" in access_flags([white[0], white[2], black])[0]
