"""Pictures, judges, metrics and manipulations take what lies on another device."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

from diffusers_erasure.artifacts import Artifact, load_erasure
from diffusers_erasure.concepts import resolve_concepts
from diffusers_erasure.evaluation.generate import Artist, Sampling
from diffusers_erasure.evaluation.judges import load_panel, load_question
from diffusers_erasure.evaluation.metrics import ClipScorer, classifier_extractor, clip_extractor
from diffusers_erasure.evaluation.metrics.extractors import load_extractor
from diffusers_erasure.evaluation.metrics.lpips import embedded_perceptual
from diffusers_erasure.evaluation.reactivation import Subject, reactivate
from tests.device.second_device import second_device
from tests.foreign_models import write_classifier, write_clip
from tests.unit.evaluation.test_reactivation import SETTINGS, groups_of

IMAGES = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_pictures_are_drawn_there_and_come_back(tiny_pipe: StableDiffusionPipeline, tmp_path: Path) -> None:
    sampling = Sampling(steps=2, guidance_scale=3.0)
    here = Artist(tiny_pipe, sampling).draw(["a dog", "a cat"], [0, 1]).images
    with second_device() as device:
        there = Artist(tiny_pipe.to(device), sampling, folder=tmp_path)
        for _ in range(2):  # drawn, and read again
            images = there.draw(["a dog", "a cat"], [0, 1]).images
            assert images.device.type == "cpu"
            assert (images.int() - here.int()).abs().max() <= 1


def test_judges_and_metrics_see_there_what_they_see_here() -> None:
    other = IMAGES.flip(0)
    seen = [judge.judge(IMAGES).probabilities for judge in load_panel().members]
    features, distance = load_extractor("embedded")(IMAGES), embedded_perceptual()(IMAGES, other)
    with second_device() as device:
        place = str(device)
        for judge, expected in zip(load_panel(device=place).members, seen, strict=True):
            told = judge.judge(IMAGES).probabilities
            torch.testing.assert_close(told, expected, atol=1e-4, rtol=1e-3)
        found = load_extractor("embedded", device=place)(IMAGES)
        torch.testing.assert_close(found, features, atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(
            embedded_perceptual(device=place)(IMAGES, other), distance, atol=1e-4, rtol=1e-3
        )


def test_foreign_judges_answer_there_too(tmp_path: Path) -> None:
    classifier, clip = write_classifier(tmp_path / "classifier"), write_clip(tmp_path / "clip")

    def asked(place: str) -> list[torch.Tensor]:
        return [
            load_question(f"image-classifier:{classifier}#church", device=place)(IMAGES),
            load_question(f"clip:{clip}#dog,cat", ["dog"], device=place)(IMAGES),
            classifier_extractor(str(classifier), device=place)(IMAGES),
            clip_extractor(str(clip), device=place)(IMAGES),
            ClipScorer.load(str(clip), device=place).scores(IMAGES, ["a dog", "a cat"]),
        ]

    here = asked("cpu")
    with second_device() as device:
        for found, expected in zip(asked(str(device)), here, strict=True):
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


def test_every_manipulation_runs_there(
    tiny_pipe: StableDiffusionPipeline, tiny_artifact: Artifact, tmp_path: Path
) -> None:
    erased = StableDiffusionPipeline(**tiny_pipe.components, requires_safety_checker=False)
    load_erasure(erased, tiny_artifact)
    with second_device() as device:
        subject = Subject(
            tiny_pipe.to(device), erased.to(device), tiny_artifact, tiny_artifact.manifest.base.id
        )
        found = reactivate(
            subject,
            groups_of(tiny_artifact),
            resolve_concepts(["church"]),
            settings=SETTINGS,
            output_dir=tmp_path,
        ).report
    assert {row.state_before for row in found.rows} == {"verified"}
    assert not [why for why in found.not_measured.values() if "Error" in why]
    assert len(found.rows) > 10
