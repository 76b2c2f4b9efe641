"""Metrics against literal versions, closed forms, and what they must refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from diffusers_erasure.errors import EvaluationError
from diffusers_erasure.evaluation.metrics import (
    Extractor,
    Perceptual,
    Retention,
    clip_score,
    fid,
    image_distance,
    kid,
    lpips,
)
from diffusers_erasure.evaluation.metrics.fid import Distance, kid_interval
from tests.reference import image_distances as reference


def generator_of(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def features(count: int, width: int, *, shift: float = 0.0, scale: float = 1.0, seed: int = 0) -> Tensor:
    """Correlated Gaussian features."""
    generator = generator_of(seed)
    mix = torch.randn(width, width, generator=generator_of(99), dtype=torch.float64)
    return shift + scale * torch.randn(count, width, generator=generator, dtype=torch.float64) @ mix


@pytest.mark.parametrize(("count", "width"), [(60, 4), (40, 12), (10, 30)])
def test_fid_follows_its_equation(count: int, width: int) -> None:
    """Also with fewer pictures than features, where the covariances are singular."""
    first, second = features(count, width), features(count + 5, width, shift=0.4, scale=1.5, seed=1)
    assert fid(first, second) == pytest.approx(reference.fid(first.numpy(), second.numpy()), rel=1e-5)
    assert fid(first, second) == pytest.approx(fid(second, first), rel=1e-9)
    assert fid(first, first) == pytest.approx(0, abs=1e-6 * float(first.square().sum()))


def test_fid_in_closed_form() -> None:
    """In one dimension it is (m1 - m2)^2 + (s1 - s2)^2."""
    first, second = torch.tensor([[0.0], [2.0], [4.0]]), torch.tensor([[5.0], [6.0], [7.0]])
    assert fid(first, second) == pytest.approx((2 - 6) ** 2 + (2 - 1) ** 2)
    shifted = features(50, 3) + 2
    assert fid(features(50, 3), shifted) == pytest.approx(3 * 2**2, rel=1e-6)


def test_kid_follows_its_definition() -> None:
    first, second = features(12, 5), features(9, 5, shift=0.3, seed=1)
    assert kid(first, second) == pytest.approx(reference.kid(first.numpy(), second.numpy()), rel=1e-9)
    pair = first[:9].numpy(), second.numpy()
    assert kid(first[:9], second, paired=True) == pytest.approx(reference.kid(*pair, paired=True), rel=1e-9)
    assert kid(first, first, paired=True) == pytest.approx(0, abs=1e-9)
    with pytest.raises(EvaluationError, match="are no pairs"):
        kid(first, second, paired=True)


def test_paired_kid_is_unbiased_for_pictures_of_one_seed() -> None:
    """Two pipelines that draw alike: pictures of one seed resemble each other, the distributions are one."""
    found, plain = [], []
    for seed in range(300):
        shared = features(10, 3, seed=seed)
        pair = [0.8 * shared + 0.6 * features(10, 3, seed=1000 * i + seed) for i in (1, 2)]
        found.append(kid(*pair, paired=True))
        plain.append(kid(*pair))
    assert abs(np.mean(found)) < 3 * np.std(found) / 300**0.5
    assert np.mean(plain) < -3 * np.std(plain) / 300**0.5, "the plain one is too low here"


def test_kid_is_unbiased() -> None:
    same = [kid(features(10, 3, seed=i), features(10, 3, seed=1000 + i)) for i in range(400)]
    assert abs(np.mean(same)) < 3 * np.std(same) / 20, "on average nothing, and below zero as often"
    assert min(same) < 0


def test_the_interval_of_kid_leaves_out_each_prompt_in_turn() -> None:
    first, second = features(12, 4), features(12, 4, shift=0.2, seed=1)
    prompts = ["a", "b", "a", "c", "c", "c", "b", "a", "d", "a", "b", "c"]
    rows = [[row for row, prompt in enumerate(prompts) if prompt != name] for name in "abcd"]
    left_out = [reference.kid(first[kept].numpy(), second[kept].numpy(), paired=True) for kept in rows]
    mean = sum(left_out) / 4
    error = (3 / 4 * sum((one - mean) ** 2 for one in left_out)) ** 0.5
    value = reference.kid(first.numpy(), second.numpy(), paired=True)
    expected = (value - 1.959964 * error, value + 1.959964 * error)
    assert kid_interval(first, second, prompts) == pytest.approx(expected, rel=1e-6)
    with pytest.raises(EvaluationError, match="without the prompt 'a' only 1 pictures remain"):
        kid_interval(first[:4], second[:4], ["a", "a", "a", "b"])


def test_the_interval_of_kid_covers_as_often_as_it_says() -> None:
    true = kid(features(4000, 3, seed=5), features(4000, 3, shift=1.0, seed=6))
    prompts = [row // 2 for row in range(80)]
    hits = []
    for seed in range(150):
        pair = features(80, 3, seed=10_000 + seed), features(80, 3, shift=1.0, seed=20_000 + seed)
        low, high = kid_interval(*pair, prompts)
        hits.append(low <= true <= high)
    assert np.mean(hits) > 0.85


@pytest.mark.parametrize(
    ("first", "second"), [(torch.zeros(3, 2), torch.zeros(3, 4)), (torch.zeros(1, 2), torch.zeros(3, 2))]
)
def test_features_that_cannot_be_compared(first: Tensor, second: Tensor) -> None:
    for distance in (fid, kid):
        with pytest.raises(EvaluationError, match="cannot be compared"):
            distance(first, second)


def pictures(count: int, *, seed: int = 0, brightness: int = 256) -> Tensor:
    return torch.randint(0, brightness, (count, 3, 8, 8), generator=generator_of(seed)).to(torch.uint8)


PIXELS = Extractor("pixels", "0" * 64, lambda images: images.flatten(1)[:, :6].float() / 255)


def test_the_distance_of_two_pipelines() -> None:
    prompts = [f"prompt {index // 2}" for index in range(30)]
    base = pictures(30)
    near = image_distance(base, base.clone(), PIXELS, prompts=prompts, generator=generator_of())
    far = image_distance(
        base, pictures(30, seed=1, brightness=60), PIXELS, prompts=prompts, generator=generator_of()
    )
    assert (near.extractor, near.width, near.base, near.erased) == ("pixels", 6, 30, 30)
    assert near.fid == pytest.approx(0, abs=1e-9)
    assert near.fid < near.null_fid < far.fid
    assert far.kid_low <= far.kid <= far.kid_high
    assert far.kid_low > 0
    assert near.kid == pytest.approx(0, abs=1e-12)
    again = image_distance(base, base.clone(), PIXELS, prompts=prompts, generator=generator_of())
    assert again == near == Distance.model_validate_json(near.model_dump_json())


def test_what_a_distance_refuses() -> None:
    with pytest.raises(EvaluationError, match="expected four pairs or more"):
        image_distance(pictures(4), pictures(3), PIXELS, prompts=["a"] * 4, generator=generator_of())
    with pytest.raises(EvaluationError, match="different prompts have no interval"):
        image_distance(pictures(4), pictures(4), PIXELS, prompts=["a"] * 4, generator=generator_of())
    with pytest.raises(EvaluationError, match="expected uint8 pictures"):
        PIXELS(torch.zeros(2, 3, 8, 8))
    with pytest.raises(EvaluationError, match="was given no pictures"):
        PIXELS(pictures(0))
    for bad in (lambda images: images.float(), lambda images: images.flatten(1).float() * float("nan")):
        with pytest.raises(EvaluationError, match="not finite"):
            Extractor("bad", "0" * 64, bad)(pictures(2))


def test_clip_score_row_by_row() -> None:
    seen, read = torch.randn(6, 5, generator=generator_of()), torch.randn(6, 5, generator=generator_of(1))
    expected = [reference.clip_score(a, b) for a, b in zip(seen.numpy(), read.numpy(), strict=True)]
    assert clip_score(seen, read).tolist() == pytest.approx(expected, abs=1e-4)
    assert 0.0 in expected, "one of them points away"


def layers_of(images: Tensor) -> list[Tensor]:
    pooled = torch.nn.functional.avg_pool2d(images.float(), 2)
    return [images.float() + 1, pooled.repeat(1, 2, 1, 1) + 1]


def test_lpips_place_by_place() -> None:
    first, second = layers_of(pictures(3)), layers_of(pictures(3, seed=1))
    weights = [torch.tensor([0.5, 1.0, 2.0]), torch.rand(6, generator=generator_of())]
    expected = [
        reference.lpips(
            [layer[i].double().numpy() for layer in first],
            [layer[i].double().numpy() for layer in second],
            [weight.double().numpy() for weight in weights],
        )
        for i in range(3)
    ]
    assert lpips(first, second, weights).tolist() == pytest.approx(expected, rel=1e-4)
    ones = [torch.ones(3), torch.ones(6)]
    assert torch.allclose(lpips(first, second), lpips(first, second, ones))
    for bad in ((first, second[:1], weights), (first, second, weights[:1]), (first, second, weights[::-1])):
        with pytest.raises(EvaluationError, match=r"expected .pictures, channels, height, width."):
            lpips(*bad)


def test_a_perceptual_distance_of_pictures() -> None:
    distance = Perceptual("layers", "0" * 64, layers_of)
    assert distance(pictures(2), pictures(2)).tolist() == [0.0, 0.0]
    assert bool((distance(pictures(70), pictures(70, seed=1)) > 0).all())
    with pytest.raises(EvaluationError, match="are no pairs"):
        distance(pictures(2), pictures(3))


def test_retention_is_paired_and_has_a_margin() -> None:
    base = [True] * 95 + [False] * 5
    kept = Retention.of(base, [True] * 94 + [False] * 6, margin=0.06)
    assert (kept.both, kept.lost, kept.gained, kept.neither) == (94, 1, 0, 5)
    assert kept.difference == pytest.approx(-0.01)
    assert kept.non_inferior
    assert str(kept).startswith("-1.0 points (")
    assert str(kept).endswith("kept within 6")
    lost = Retention.of(base, [True] * 70 + [False] * 30, margin=0.05)
    assert not lost.non_inferior
    assert lost.mcnemar_p < 1e-6
    assert Retention.model_validate_json(lost.model_dump_json()) == lost


def test_a_small_sample_never_shows_that_something_was_kept() -> None:
    few = Retention.of([True] * 10, [True] * 10, margin=0.05)
    assert few.difference == 0
    assert not few.non_inferior
    assert "not shown to be kept" in str(few)
    assert Retention.of([True] * 200, [True] * 200, margin=0.05).non_inferior


def test_what_retention_refuses() -> None:
    with pytest.raises(EvaluationError, match="expected pairs of the same prompt and seed"):
        Retention.of([True], [True, False])
    with pytest.raises(EvaluationError, match="expected pairs"):
        Retention.of([], [])
    record = Retention.of([True, False] * 10, [True, True] * 10)
    with pytest.raises(ValidationError, match="does not follow from its counts"):
        Retention(**{**record.model_dump(), "low": 0.0})
