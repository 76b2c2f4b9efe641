"""What a training's numbers are shown as: counts are whole, shares are percent of something that is named."""

from __future__ import annotations

from diffusers_erasure.cli.training_numbers import shown_numbers


def test_counts_and_shares_are_told_apart() -> None:
    shown = shown_numbers(
        {
            "pairs": 22.0,
            "retained states": 71460.0,
            "condition": 1.1771e8,
            "missing change": 0.02854,
            "drift of retained": 0.09218,
            "loss": 0.0123456,
        }
    )
    assert shown == {
        "pairs": "22",
        "retained states": "71460",
        "condition": "1.177e+08",
        "missing change": "2.85 % of what the mapped states were to change",
        "drift of retained": "9.22 % of what is heard of the retained states",
        "loss": "0.01235",
    }
