"""Trainings are the unit: what is equal is not found to differ, however many pictures a training has."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import product

import pytest

from diffusers_erasure.benchmark.slots import (
    contrast,
    contrast_of_values,
    mean_interval,
    sign_flip,
    smallest_p,
)
from diffusers_erasure.evaluation.intervals import mcnemar_exact
from diffusers_erasure.evaluation.proportion import Proportion

PICTURES = 34
LEVEL = 0.05


def literal(differences: Sequence[int]) -> float:
    """Every assignment of signs, one after another."""
    found = abs(sum(differences))
    sums = [
        sum(sign * one for sign, one in zip(signs, differences, strict=True))
        for signs in product((1, -1), repeat=len(differences))
    ]
    return sum(abs(total) >= found for total in sums) / len(sums)


@pytest.mark.parametrize(
    "differences",
    [
        (3,),
        (1, 2, 3),
        (5, -5),
        (0, 0, 0),
        (7, 7, -1, 0, 2, 3),
        (1, 1, 1, 1, 1, 1),
        (9, -2, 4, 4, -1, 0, 12, 3),
    ],
)
def test_p_is_that_of_every_assignment_of_signs(differences: tuple[int, ...]) -> None:
    assert sign_flip(differences) == pytest.approx(literal(differences))
    assert sign_flip([100 * one / 34 for one in differences]) == pytest.approx(
        literal(differences)
    )  # rounding is no matter


def test_too_many_to_go_through_are_drawn_the_same_way_each_time() -> None:
    generator = random.Random(3)
    sixteen = [generator.randint(-20, 26) for _ in range(16)]
    exact = sign_flip(sixteen)
    drawn = sign_flip([*sixteen, 0.001])  # one more slot that hardly matters
    assert drawn == sign_flip([*sixteen, 0.001])
    assert drawn == pytest.approx(exact, abs=0.01)
    assert 0.001 < exact < 0.999


def equal_variants(generator: random.Random, slots: int) -> tuple[list[int], list[tuple[int, int]]]:
    """Counts of two equal variants whose trainings differ: differences, and discordant pictures, by slot."""
    differences, discordant = [], []
    for _ in range(slots):
        rates = [generator.betavariate(1, 3) for _ in range(2)]
        marks = [[generator.random() < rate for _ in range(PICTURES)] for rate in rates]
        differences.append(sum(marks[0]) - sum(marks[1]))
        pairs = list(zip(*marks, strict=True))
        discordant.append((pairs.count((True, False)), pairs.count((False, True))))
    return differences, discordant


@pytest.mark.parametrize("slots", [6, 12])
def test_equal_variants_differ_no_more_often_than_the_level(slots: int) -> None:
    """Where a test of single pictures cries out in a third of the cases and more."""
    generator = random.Random(slots)
    runs = [equal_variants(generator, slots) for _ in range(400)]
    wrong = sum(sign_flip(differences) <= LEVEL for differences, _ in runs) / len(runs)
    naive = sum(
        mcnemar_exact(sum(a for a, _ in pairs), sum(b for _, b in pairs)) <= LEVEL for _, pairs in runs
    ) / len(runs)
    assert wrong <= LEVEL + 2 * (LEVEL * (1 - LEVEL) / len(runs)) ** 0.5
    assert naive > 0.3


def test_variants_that_differ_in_every_training_are_told_apart() -> None:
    assert sign_flip([-3] * 12) == pytest.approx(smallest_p(12))
    assert smallest_p(12) == 2**-11
    assert smallest_p(3) == 0.25 > LEVEL


def test_the_interval_is_of_trainings() -> None:
    """Mean 2, standard deviation 1, three of them: 2 +- 4.303 / sqrt(3)."""
    assert mean_interval([1, 2, 3]) == pytest.approx((2 - 4.3027 / 3**0.5, 2 + 4.3027 / 3**0.5), abs=1e-3)
    assert mean_interval([1]) is None


def test_only_what_both_have_is_compared() -> None:
    first = {("church", 0): Proportion.of(2, 20), ("dog", 0): Proportion.of(20, 20)}
    second = {("church", 0): Proportion.of(7, 20), ("church", 1): Proportion.of(9, 20)}
    found = contrast(first, second)
    assert found is not None
    assert (found.differences, found.words) == ((-25.0,), "2/20 against 7/20")
    assert contrast(first, {}) is None
    likeness = contrast_of_values({("church", 0): 0.98}, {("church", 0): 0.95, ("dog", 0): 0.1}, "{:.2f}")
    assert likeness is not None
    assert likeness.words == "0.98 against 0.95"
