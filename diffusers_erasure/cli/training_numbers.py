"""How the numbers are shown that a training reports: counts, shares of something, and the rest."""

from __future__ import annotations

from collections.abc import Mapping

COUNTS = ("pairs", "mapped states", "retained states", "rank")
SHARES = {
    "missing change": "of what the mapped states were to change",
    "drift of retained": "of what is heard of the retained states",
}
"""What each share of a closed form is of; README explains both."""


def shown_numbers(numbers: Mapping[str, float]) -> dict[str, str]:
    """Text of each number, by its name.

    Args:
        numbers: What a training, or a composition of trainings, reported last.
    """
    return {name: _shown(name, value) for name, value in numbers.items()}


def _shown(name: str, value: float) -> str:
    if name in COUNTS:
        return f"{value:.0f}"
    if name in SHARES:
        return f"{100 * value:.3g} % {SHARES[name]}"
    return f"{value:.4g}"
