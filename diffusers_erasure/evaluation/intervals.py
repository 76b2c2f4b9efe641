"""Statistics of k out of n, as pure functions (no torch, no files).

The interval is Wilson's score interval (Wilson, 1927): unlike the textbook one it stays inside [0, 1] and is
honest at 0 of n. Two rates that were measured on the same prompts and seeds are compared by McNemar's test in
its exact, binomial form, which looks only at the pictures on which the two differ; how far apart they are has
Newcombe's interval for paired rates (Stat. Med. 17, 1998, method 10), which is built from Wilson's.

SciPy has the first two as well. They are written out because a report that is read back is compared with what
its counts give, to the bit, and `scipy.stats.binomtest` gives other last bits.
"""

from collections.abc import Sequence
from math import comb, sqrt

from diffusers_erasure.errors import EvaluationError

Z_95 = 1.959963984540054
"""Quantile of the standard normal distribution that leaves 2.5 % on each side."""


def wilson_interval(k: int, n: int, *, z: float = Z_95) -> tuple[float, float]:
    """Bounds of the Wilson score interval for `k` successes in `n` trials, each in [0, 1].

    Args:
        k: Successes, 0 to `n`.
        n: Trials, at least 1.
        z: Normal quantile; the default gives 95 %.
    """
    check_counts(k, n)
    rate = k / n
    scale = 1 + z * z / n
    centre = (rate + z * z / (2 * n)) / scale
    half_width = z / scale * sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    low = 0.0 if k == 0 else max(0.0, centre - half_width)
    high = 1.0 if k == n else min(1.0, centre + half_width)
    return low, high


def mcnemar_exact(first_only: int, second_only: int) -> float:
    """Two-sided p-value of the exact McNemar test.

    Args:
        first_only: Pairs in which only the first measurement succeeded.
        second_only: Pairs in which only the second one did.
    """
    discordant = first_only + second_only
    if discordant == 0:
        return 1.0
    tail = sum(comb(discordant, count) for count in range(min(first_only, second_only) + 1))
    # Integers are divided last: 2**n is exact, a float of it is not.
    return min(1.0, float(2 * tail / 2**discordant))


def paired_difference(both: int, first_only: int, second_only: int, neither: int) -> tuple[float, float]:
    """Bounds of the 95 % interval of the second rate minus the first, on the same prompts and seeds.

    Args:
        both: Pairs in which both measurements succeeded.
        first_only: Pairs in which only the first did.
        second_only: Pairs in which only the second did.
        neither: Pairs in which neither did.

    Returns:
        Lower and upper bound, each in [-1, 1].
    """
    n = both + first_only + second_only + neither
    for count in (both, first_only, second_only, neither):
        check_counts(count, n)
    first, second = both + first_only, both + second_only
    first_low, first_high = wilson_interval(first, n)
    second_low, second_high = wilson_interval(second, n)
    phi = _phi_corrected(both, first_only, second_only, neither)
    difference = (second - first) / n
    below = second / n - second_low, first_high - first / n
    above = second_high - second / n, first / n - first_low
    low, high = (sqrt(max(0.0, a * a - 2 * phi * a * b + b * b)) for a, b in (below, above))
    return max(-1.0, difference - low), min(1.0, difference + high)


def _phi_corrected(both: int, first_only: int, second_only: int, neither: int) -> float:
    """Correlation of paired outcomes, corrected towards 0 if positive (method 10); 0 if undefined."""
    margins = (both + first_only) * (second_only + neither) * (both + second_only) * (first_only + neither)
    if margins == 0:
        return 0.0
    n = both + first_only + second_only + neither
    cross = both * neither - first_only * second_only
    return (max(cross - n / 2, 0.0) if cross > 0 else float(cross)) / sqrt(margins)


def cohen_kappa(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Agreement of two yes/no raters beyond chance; 1 is perfect, 0 is what chance alone gives.

    When chance alone explains everything (both raters always gave one and the same answer) it is 1.
    """
    check_counts(0, len(first))
    if len(first) != len(second):
        raise EvaluationError(
            f"{len(first)} ratings were compared with {len(second)}; both raters must rate the same "
            "pictures; pass sequences of one length"
        )
    n = len(first)
    observed = sum(a == b for a, b in zip(first, second, strict=True)) / n
    share_first, share_second = sum(first) / n, sum(second) / n
    chance = share_first * share_second + (1 - share_first) * (1 - share_second)
    return 1.0 if chance == 1.0 else (observed - chance) / (1 - chance)


def check_counts(k: int, n: int) -> None:
    """Refuse counts that are no proportion."""
    if n < 1 or not 0 <= k <= n:
        raise EvaluationError(
            f"{k} of {n} is no proportion; expected 0 <= k <= n with n at least 1; "
            "a set without pictures is reported as 'not measured'"
        )
