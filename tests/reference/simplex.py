"""The projection onto the probability simplex, twice, from its definitions."""

from __future__ import annotations


def project_by_sorting(point: list[float]) -> list[float]:
    """Held, Wolfe and Crowder 1974: the largest number of sorted entries that stay above the threshold."""
    ordered = sorted(point, reverse=True)
    threshold = 0.0
    total = 0.0
    for count, value in enumerate(ordered, 1):
        total += value
        candidate = (total - 1) / count
        if value > candidate:
            threshold = candidate
    return [max(value - threshold, 0.0) for value in point]


def project_by_bisection(point: list[float], rounds: int = 200) -> list[float]:
    """Halve an interval that holds the threshold, as the code of UnlearnDiffAtk does."""
    low, high = min(point) - 1, max(point)
    for _ in range(rounds):
        middle = (low + high) / 2
        if sum(max(value - middle, 0.0) for value in point) > 1:
            low = middle
        else:
            high = middle
    return [max(value - (low + high) / 2, 0.0) for value in point]
