"""Gradient rectification: the algebra of the paper, its rule for ω, and what a run must keep."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from diffusers_erasure.training.rectification import Gradients, Rectification, Rectified, Rectifier
from tests.reference.aegis import rectified

SEEDS = st.integers(0, 10_000)


def tensors(seed: int, count: int = 3) -> dict[str, Tensor]:
    """Some tensors by name, float64 so that identities hold to rounding."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(4, 3), (5,), (2, 2, 2)]
    return {
        f"w{number}": torch.randn(shapes[number % 3], generator=generator, dtype=torch.float64)
        for number in range(count)
    }


def inner(one: Tensor, other: Tensor) -> float:
    return float((one * other).sum())


def rectify(
    rectifier: Rectifier, erase: dict[str, Tensor], pull: dict[str, Tensor]
) -> tuple[dict[str, Tensor], Rectified]:
    """Rectified copies of the gradients, and what it was about."""
    found = {name: one.clone() for name, one in erase.items()}
    told = rectifier(Gradients.held(found, lambda name: pull[name].clone()))
    return found, told


@settings(max_examples=60, deadline=None)
@given(first=SEEDS, second=SEEDS, omega=st.floats(0, 1))
def test_the_papers_identities_hold(first: int, second: int, omega: float) -> None:
    erase, pull = tensors(first), tensors(second + 20_000)
    found, _ = rectify(Rectifier(Rectification("fixed", omega=omega)), erase, pull)
    for name, g in found.items():
        e, r = erase[name], pull[name]
        if inner(e, r) >= 0:
            assert torch.equal(g, e)
            continue
        assert inner(g, r) == pytest.approx((1 - omega) * inner(e, r), rel=1e-6, abs=1e-9)
        cosine = inner(e, r) ** 2 / (inner(e, e) * inner(r, r))
        assert inner(g, e) == pytest.approx(inner(e, e) * (1 - omega * cosine), rel=1e-6, abs=1e-9)
        assert inner(g, e) >= -1e-9


@settings(max_examples=30, deadline=None)
@given(first=SEEDS, second=SEEDS, scale=st.floats(1e-3, 1e3))
def test_the_length_of_the_pull_does_not_matter(first: int, second: int, scale: float) -> None:
    erase, pull = tensors(first), tensors(second + 20_000)
    longer = {name: scale * one for name, one in pull.items()}
    one, two = (
        rectify(Rectifier(Rectification("fixed", omega=0.7)), erase, given)[0] for given in (pull, longer)
    )
    for name in erase:
        torch.testing.assert_close(one[name], two[name], rtol=1e-6, atol=1e-9)


def test_at_the_original_the_gradient_is_untouched() -> None:
    erase = tensors(0)
    rectifier = Rectifier(Rectification("fixed", omega=1.0))
    found, told = rectify(rectifier, erase, {name: torch.zeros_like(one) for name, one in erase.items()})
    assert all(torch.equal(found[name], one) for name, one in erase.items())
    assert (told.cosine, told.conflicts, told.pull) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(("rule", "mu", "largest"), [("paper", 0.1, 1.0), ("released", 0.2, 1e6)])
@pytest.mark.parametrize("memory", ["sign", "full"])
def test_a_run_is_the_literal_algorithm(rule: str, mu: float, largest: float, memory: str) -> None:
    """Twenty steps down a slope that changes; ω and gradients of every tensor agree at each.

    A sign stands for the last projection as long as the way back hardly turns, so the weights then begin away
    from the original and take short steps.
    """
    rectifier = Rectifier(Rectification(rule, memory=memory))  # type: ignore[arg-type]
    original, weights = tensors(1), tensors(1 if memory == "full" else 2)
    length = 0.1 if memory == "full" else 1e-4
    omegas = dict.fromkeys(original, 0.0)
    before: dict[str, Tensor | None] = dict.fromkeys(original)
    conflicts = 0
    for step in range(20):
        slope = tensors(100 + step)
        erase = {name: 0.3 * slope[name] + 0.2 * torch.ones_like(weights[name]) for name in weights}
        found, _ = rectify(rectifier, erase, {name: weights[name] - original[name] for name in weights})
        for name, weight in weights.items():
            gradient, omegas[name], before[name] = rectified(
                erase[name], weight, original[name], omegas[name], before[name], mu, largest
            )
            torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-12)
            weights[name] = weight - length * gradient
            conflicts += not torch.equal(gradient, erase[name])
            if name in rectifier.omegas:
                assert rectifier.omegas[name] == pytest.approx(omegas[name])
    assert conflicts > 0
    assert max(omegas.values()) > 0


def test_the_strength_may_go_up_with_the_run() -> None:
    rectifier = Rectifier(Rectification("linear", largest=0.8, steps=5))
    erase, pull = tensors(3), tensors(4)
    strengths = [rectify(rectifier, erase, pull)[1].omega for _ in range(6)]
    assert strengths == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8, 0.8])


def test_all_tensors_may_be_one() -> None:
    erase, pull = tensors(5), tensors(6)
    if sum(inner(erase[name], pull[name]) for name in erase) > 0:
        pull = {name: -one for name, one in pull.items()}
    found, _ = rectify(Rectifier(Rectification("fixed", omega=1.0, scope="global")), erase, pull)
    assert sum(inner(found[name], pull[name]) for name in erase) == pytest.approx(0.0, abs=1e-9)


def test_earlier_projections_may_count_and_the_pull_may_stay() -> None:
    erase = {"w": torch.tensor([1.0, 0.0])}
    conflict, agreement = {"w": torch.tensor([-2.0, 1.0])}, {"w": torch.tensor([2.0, 1.0])}
    rectifier = Rectifier(Rectification("fixed", omega=1.0, ema=0.5, pull=0.1))
    first = rectify(rectifier, erase, conflict)[0]["w"]
    projection = -2 / 5 * conflict["w"]
    torch.testing.assert_close(first, erase["w"] - projection)
    second = rectify(rectifier, {"w": 3 * erase["w"]}, conflict)[0]["w"]
    torch.testing.assert_close(second, 3 * erase["w"] - (0.5 * projection + 0.5 * 3 * projection))
    third = rectify(rectifier, erase, agreement)[0]["w"]
    torch.testing.assert_close(third, erase["w"] + 0.1 * agreement["w"])


def test_a_tensor_without_a_pull_counts_in_the_means_with_zero() -> None:
    erase = {"moved": torch.tensor([1.0, 0.0]), "still": torch.tensor([1.0, 1.0])}
    pull = {"moved": torch.tensor([-3.0, 0.0]), "still": torch.zeros(2)}
    _, told = rectify(Rectifier(Rectification("fixed", omega=1.0)), erase, pull)
    assert (told.cosine, told.conflicts) == (pytest.approx(-1 / 2), 1 / 2)


def test_earlier_projections_have_the_share_that_is_asked_for() -> None:
    """A share other than a half, which would look the same from both sides."""
    erase, conflict = {"w": torch.tensor([1.0, 0.0])}, {"w": torch.tensor([-2.0, 1.0])}
    rectifier = Rectifier(Rectification("fixed", omega=1.0, ema=0.25))
    rectify(rectifier, erase, conflict)
    second = rectify(rectifier, {"w": 3 * erase["w"]}, conflict)[0]["w"]
    projection = -2 / 5 * conflict["w"]
    torch.testing.assert_close(second, 3 * erase["w"] - (0.25 * projection + 0.75 * 3 * projection))


@pytest.mark.parametrize(("memory", "ema"), [("sign", 0.0), ("full", 0.0), ("sign", 0.5)])
def test_an_overflow_is_not_remembered(memory: str, ema: float) -> None:
    """Half precision's gradients overflow now and then; the optimizer leaves such a step out."""
    given = Rectification("paper", memory=memory, ema=ema)  # type: ignore[arg-type]
    plain, struck = Rectifier(given), Rectifier(given)
    for step in range(6):
        erase, pull = tensors(step), tensors(100 + step)
        expected, _ = rectify(plain, erase, pull)
        if step == 2:
            broken = {**erase, "w1": torch.full_like(erase["w1"], float("inf"))}
            left, told = rectify(struck, broken, pull)
            assert all(torch.equal(left[name], broken[name]) for name in left)
            assert told.cosine == 0.0
        found, _ = rectify(struck, erase, pull)
        assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("memory", ["sign", "full"])
def test_a_run_goes_on_from_its_state(memory: str) -> None:
    chosen = Rectification(memory=memory, ema=0.3)  # type: ignore[arg-type]
    whole, first = Rectifier(chosen), Rectifier(chosen)
    for step in range(6):
        if step == 3:
            state = {name: value.clone() for name, value in first.state().items()}
            first = Rectifier(chosen)
            first.load_state(state)
        erase, pull = tensors(step), tensors(50 + step)
        (one, told), (two, again) = rectify(whole, erase, pull), rectify(first, erase, pull)
        assert all(torch.equal(one[name], two[name]) for name in erase)
        assert told == again
