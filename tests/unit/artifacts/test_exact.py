"""Products with the same bits everywhere: exact where they can be, near where they cannot, in any order."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from diffusers_erasure.artifacts.edits import RightFactorEdit
from diffusers_erasure.artifacts.exact import exact_product, sliced


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def rational_product(left: Tensor, right: Tensor) -> list[list[Fraction]]:
    """The product without any rounding."""
    rows = [[Fraction(value) for value in row] for row in left.tolist()]
    columns = [[Fraction(value) for value in column] for column in right.T.tolist()]
    return [[sum((a * b for a, b in zip(row, column, strict=True)), Fraction()) for column in columns]
            for row in rows]  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(width=st.integers(1, 40), seed=st.integers(0, 1000), scale=st.floats(1e-8, 1e8))
def test_it_is_the_rational_product_to_eleven_digits(width: int, seed: int, scale: float) -> None:
    left, right = scale * random(3, width, seed=seed), random(width, 4, seed=seed + 1)
    found = exact_product(left, right)
    largest = float(left.abs().max() * right.abs().max()) * width
    for row, wanted in zip(found.tolist(), rational_product(left, right), strict=True):
        for value, exact in zip(row, wanted, strict=True):
            assert abs(Fraction(value) - exact) <= Fraction(1e-11 * largest)


def test_the_order_of_the_sums_does_not_matter() -> None:
    """Shuffling the inner dimension changes the bits of a plain product and none of this one."""
    left, right = random(64, 768).float(), random(768, 96, seed=1)
    order = torch.randperm(768, generator=torch.Generator().manual_seed(2))
    assert torch.equal(exact_product(left, right), exact_product(left[:, order], right[order]))
    assert not torch.equal(left.double() @ right, left[:, order].double() @ right[order])


@pytest.mark.parametrize("width", [1, 2, 768, 2048])
def test_partial_sums_of_slices_stay_below_what_float64_counts(width: int) -> None:
    cut = sliced(torch.ones(2, width, dtype=torch.float64) * 0.999999999, dim=1)
    for one in (cut.high, cut.low):
        assert float(one.abs().max()) <= 2**cut.bits
        assert torch.equal(one, one.round())
    assert width * 2.0 ** (2 * cut.bits) <= 2.0**53


def test_thin_matrices_edit_as_their_product_does() -> None:
    weight = random(20, 32).float()
    left, right = random(32, 5, seed=1).float(), random(5, 32, seed=2).float()
    thin = RightFactorEdit(left=left, right=right, targets=("w",))
    dense = RightFactorEdit(factor=thin.matrix, targets=("w",))
    wanted = weight.double() @ left.double() @ right.double()
    for edit in (thin, dense):
        found = edit.change("w", weight)
        assert float((found - wanted).abs().max()) < 1e-11 * float(wanted.abs().max())


def test_zeros_stay_zeros() -> None:
    assert not exact_product(torch.zeros(3, 4), random(4, 2)).any()
