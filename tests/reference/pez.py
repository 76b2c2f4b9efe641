"""PEZ, arXiv 2302.03668, algorithm 1, written out with lists: one prompt, one number at a time.

The loss is the squared distance of the projected embeddings to given ones, whose gradient is known by hand.
"""

from __future__ import annotations

from math import sqrt


def cosine(first: list[float], second: list[float]) -> float:
    """Cosine of the angle between two vectors."""
    product = sum(a * b for a, b in zip(first, second, strict=True))
    return product / (sqrt(sum(a * a for a in first)) * sqrt(sum(b * b for b in second)))


def nearest_by_cosine(vector: list[float], matrix: list[list[float]], allowed: list[int]) -> int:
    """Number of the allowed row that has the largest cosine."""
    best, best_cosine = -1, -2.0
    for token in allowed:
        found = cosine(vector, matrix[token])
        if found > best_cosine:
            best, best_cosine = token, found
    return best


def pez_step(
    iterate: list[list[float]], matrix: list[list[float]], wanted: list[list[float]], *, rate: float
) -> list[list[float]]:
    """One plain gradient step: the gradient is taken at the projection, the iterate moves."""
    moved = []
    for vector, goal in zip(iterate, wanted, strict=True):
        shown = matrix[nearest_by_cosine(vector, matrix, list(range(len(matrix))))]
        gradient = [2 * (s - g) for s, g in zip(shown, goal, strict=True)]
        moved.append([v - rate * g for v, g in zip(vector, gradient, strict=True)])
    return moved
