"""Flags of a search that seems to fail because something hides the way: each fault raises its own."""

from __future__ import annotations

import torch

from diffusers_erasure.attacks import Access
from diffusers_erasure.evaluation.masking import (
    Transfer,
    access_flags,
    plain_flags,
    run_flags,
    stability_flags,
    transfer_flags,
)
from tests.unit.evaluation.counted_runs import outcomes, run


def test_a_search_without_a_gradient_is_flagged() -> None:
    assert "zero gradient" in run_flags(outcomes(0, zero_gradient=True))[0]
    assert run_flags(outcomes(0)) == []


def test_a_loss_that_falls_in_vain_is_flagged() -> None:
    assert "loss without success" in run_flags(outcomes(0, loss_first=1.0, loss_last=0.5))[0]
    assert run_flags(outcomes(1, loss_first=1.0, loss_last=0.5)) == []
    assert run_flags(outcomes(0, loss_first=1.0, loss_last=0.99)) == []


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
