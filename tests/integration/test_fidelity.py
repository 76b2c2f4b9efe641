"""Judge, agreement and distances on pictures that mean something."""

from __future__ import annotations

import pytest
import torch

from diffusers_erasure.embedded import EMBEDDED_MODEL_ID, embedded_pipeline
from diffusers_erasure.evaluation.confusion import LabelledBy, Source
from diffusers_erasure.evaluation.generate import Artist, sampling_defaults
from diffusers_erasure.evaluation.judges import load_question
from diffusers_erasure.evaluation.labelled import LabelledPictures, validate_judge
from diffusers_erasure.evaluation.metrics import embedded_extractor, embedded_perceptual, image_distance

pytestmark = pytest.mark.integration
N = 10


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    """Ten churches, then ten dogs, and ten churches from other seeds."""
    artist = Artist(embedded_pipeline(), sampling_defaults(EMBEDDED_MODEL_ID))
    prompts = ["a picture of a church"] * N + ["a picture of a dog"] * N + ["a picture of a church"] * N
    return artist.draw(prompts, range(940_000_000, 940_000_000 + 3 * N)).whole()


def test_the_embedded_judge_is_validated_on_pictures_of_known_content(pictures: torch.Tensor) -> None:
    known = LabelledPictures(pictures[: 2 * N], (True,) * N + (False,) * N, Source.BASE, LabelledBy.PROMPT)
    matrix = validate_judge(load_question("embedded#church"), [known]).of(Source.BASE)
    assert matrix is not None
    assert matrix.true_positives >= 8
    assert matrix.true_negatives >= 9


def test_distances_tell_other_subjects_from_other_seeds(pictures: torch.Tensor) -> None:
    churches, dogs, others = pictures[:N], pictures[N : 2 * N], pictures[2 * N :]
    distances = [
        image_distance(
            churches,
            pair,
            embedded_extractor(),
            prompts=range(N),
            generator=torch.Generator().manual_seed(0),
        )
        for pair in (churches, others, dogs)
    ]
    assert distances[0].fid == pytest.approx(0, abs=1e-6)
    assert distances[0].fid < distances[1].fid < distances[2].fid
    assert distances[2].kid_low > distances[1].kid_high
    perceptual = embedded_perceptual()
    assert perceptual(churches, others).mean() < perceptual(churches, dogs).mean()
