"""Statistics of yes and no, literally: from the papers' formulas, in exact fractions or by brute force.

Slow on purpose. It shares no code with the package.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import combinations
from math import sqrt

Z = 1.959963984540054


def wilson(k: int, n: int) -> tuple[float, float]:
    """Wilson (1927) as the book has it: (2k + z^2 -+ z sqrt(z^2 + 4k(1 - k/n))) / 2(n + z^2)."""
    root = Z * sqrt(Z * Z + 4 * k * (1 - k / n))
    return (2 * k + Z * Z - root) / (2 * (n + Z * Z)), (2 * k + Z * Z + root) / (2 * (n + Z * Z))


def rogan_gladen(observed: tuple[int, int], se: tuple[int, int], sp: tuple[int, int]) -> Fraction:
    """Rogan & Gladen (1978): the p that solves observed = p Se + (1 - p)(1 - Sp), not clipped."""
    share, sensitivity, specificity = (Fraction(k, n) for k, n in (observed, se, sp))
    return (share - (1 - specificity)) / (sensitivity - (1 - specificity))


def lang_reiczigel(
    observed: tuple[int, int], se: tuple[int, int], sp: tuple[int, int]
) -> tuple[float, float]:
    """Lang & Reiczigel (2014), one equation a line, not clipped."""
    n_prime = observed[1] + Z**2  # eq. 6
    ap = (observed[0] + Z**2 / 2) / n_prime  # eq. 7
    n_se, n_sp = se[1] + 2, sp[1] + 2
    se_prime, sp_prime = (se[0] + 1) / n_se, (sp[0] + 1) / n_sp
    p = (ap + sp_prime - 1) / (se_prime + sp_prime - 1)  # eq. 2 of the primed values
    variance_ap = ap * (1 - ap) / n_prime
    variance_se = se_prime * (1 - se_prime) / n_se
    variance_sp = sp_prime * (1 - sp_prime) / n_sp
    d = 2 * Z**2 * (p * variance_se - (1 - p) * variance_sp)  # eq. 17
    variance = (variance_ap + p**2 * variance_se + (1 - p) ** 2 * variance_sp) / (
        se_prime + sp_prime - 1
    ) ** 2  # eq. 4 of the primed values
    return p + d - Z * sqrt(variance), p + d + Z * sqrt(variance)  # eq. 16


def newcombe_paired(e: int, f: int, g: int, h: int) -> tuple[float, float]:
    """Newcombe (1998), method 10, in the paper's letters: theta = (e + f)/n - (e + g)/n."""
    n = e + f + g + h
    p1, p2 = (e + f) / n, (e + g) / n
    l1, u1 = wilson(e + f, n)
    l2, u2 = wilson(e + g, n)
    product = (e + f) * (g + h) * (e + g) * (f + h)
    numerator = e * h - f * g
    if product == 0:
        phi = 0.0
    elif numerator > n / 2:
        phi = (numerator - n / 2) / sqrt(product)
    elif numerator >= 0:
        phi = 0.0
    else:
        phi = numerator / sqrt(product)
    delta = sqrt((p1 - l1) ** 2 - 2 * phi * (p1 - l1) * (u2 - p2) + (u2 - p2) ** 2)
    epsilon = sqrt((u1 - p1) ** 2 - 2 * phi * (u1 - p1) * (p2 - l2) + (p2 - l2) ** 2)
    return p1 - p2 - delta, p1 - p2 + epsilon


def holm_by_closure(p_values: Sequence[float]) -> list[float]:
    """Holm (1979) as the closed test of Bonferroni tests: the worst over all sets that hold a hypothesis."""
    everything = range(len(p_values))
    sets = [chosen for size in range(1, len(p_values) + 1) for chosen in combinations(everything, size)]
    return [
        max(min(1.0, len(chosen) * min(p_values[i] for i in chosen)) for chosen in sets if index in chosen)
        for index in everything
    ]


def mcnemar(first_only: int, second_only: int) -> Fraction:
    """Exact McNemar: twice the chance that a fair coin is as lopsided as this, by counting all its throws."""
    n = first_only + second_only
    row = [Fraction(1)]
    for _ in range(n):
        row = [(a + b) / 2 for a, b in zip([Fraction(0), *row], [*row, Fraction(0)], strict=True)]
    return min(Fraction(1), 2 * sum(row[: min(first_only, second_only) + 1], Fraction(0)))


def kappa(first: Sequence[bool], second: Sequence[bool]) -> Fraction:
    """Cohen (1960), from every pair of pictures: chance is the agreement about unrelated ones."""
    n = len(first)
    observed = Fraction(sum(a == b for a, b in zip(first, second, strict=True)), n)
    chance = Fraction(sum(a == b for a in first for b in second), n * n)
    return (observed - chance) / (1 - chance)
