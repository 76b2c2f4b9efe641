"""What the embedded judges see just before they answer: features and maps for distances between pictures."""

from __future__ import annotations

import pytest
import torch

from diffusers_erasure.embedded.judges import JudgeName, JudgeNetwork, load_judge
from diffusers_erasure.errors import ConfigError
from diffusers_erasure.evaluation.metrics import embedded_extractor, embedded_perceptual

PICTURES = torch.randint(0, 256, (3, 3, 64, 64), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


@pytest.mark.parametrize(("name", "width"), [("concept", 192), ("concept-2", 128), ("style", 192)])
def test_the_last_layer_answers_from_the_features(name: JudgeName, width: int) -> None:
    judge = load_judge(name)
    images = PICTURES.float() / 255
    features = judge.features(images)
    assert features.shape == (3, width)
    last = judge.network.head if name == "concept-2" else judge.network[-1]
    with torch.no_grad():
        assert torch.allclose(last(features), judge(images), atol=1e-5)


@pytest.mark.parametrize("name", ["concept", "concept-2"])
def test_the_extractor_takes_pictures(name: JudgeName) -> None:
    extractor = embedded_extractor(name)
    features = extractor(PICTURES)
    assert features.dtype == torch.float64
    expected = load_judge(name).features(PICTURES.float() / 255).double()
    assert torch.allclose(features, expected, atol=1e-5)
    assert extractor.name == f"embedded-{name}"
    assert len(extractor.sha256) == 64


def test_pictures_of_another_size_are_resized() -> None:
    smaller = torch.nn.functional.interpolate(PICTURES.float(), (32, 48)).to(torch.uint8)
    assert embedded_extractor()(smaller).shape == (3, 192)
    with pytest.raises(ConfigError, match="takes images of shape"):
        JudgeNetwork("concept").features(torch.zeros(3, 64, 64))


def test_the_perceptual_distance_of_the_embedded_judge() -> None:
    distance = embedded_perceptual()
    brighter = (PICTURES.int() + 8).clamp(max=255).to(torch.uint8)
    near, far = distance(PICTURES, brighter), distance(PICTURES, PICTURES.flip(0))
    assert distance(PICTURES, PICTURES).tolist() == [0.0] * 3
    assert bool((near > 0).all())
    assert bool((far[[0, 2]] > near[[0, 2]]).all()), "another picture is further away than a brighter one"
    maps = distance.maps(PICTURES)
    assert [layer.shape[2] for layer in maps] == [32, 32, 16, 16, 8, 8, 4]
