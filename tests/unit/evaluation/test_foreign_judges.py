"""Judges of other people: a tiny classifier and a tiny CLIP of real classes, saved and loaded offline."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffusers_erasure.errors import ConfigError, EvaluationError
from diffusers_erasure.evaluation.judges import load_panel, load_question
from diffusers_erasure.evaluation.judges.clip_zero_shot import ClipJudge, load_clip
from diffusers_erasure.evaluation.judges.image_classifier import load_image_classifier
from diffusers_erasure.evaluation.measure import check_declared
from diffusers_erasure.evaluation.metrics import (
    ClipScorer,
    classifier_extractor,
    clip_extractor,
    judge_extractor,
    load_extractor,
)
from tests.foreign_models import LABELS, write_classifier, write_clip
from tests.reference import image_distances as reference

PICTURES = torch.randint(0, 256, (5, 3, 40, 56), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


@pytest.fixture(scope="module")
def classifier_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classifier(tmp_path_factory.mktemp("judges") / "classifier")


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("judges") / "clip")


def altered(folder: Path, target: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    """A copy of a model whose weights were changed."""
    target.mkdir()
    for file in folder.iterdir():
        if file.suffix == ".json":
            (target / file.name).write_bytes(file.read_bytes())
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return target


def test_a_classifier_judges(classifier_folder: Path) -> None:
    from transformers import ViTForImageClassification

    judge = load_image_classifier(str(classifier_folder))
    assert judge.labels == LABELS
    assert (judge.version, judge.threshold, len(judge.sha256)) == ("local", 0.0, 64)
    verdicts = judge.judge(PICTURES)
    resized = [
        torch.nn.functional.interpolate(
            picture[None].float(), (16, 16), mode="bilinear", antialias=True, align_corners=False
        )
        for picture in PICTURES
    ]
    model = ViTForImageClassification.from_pretrained(classifier_folder).eval()
    with torch.no_grad():
        expected = model(pixel_values=torch.cat(resized) / 127.5 - 1).logits.softmax(-1)
    assert torch.allclose(verdicts.probabilities, expected, atol=0.02), "resized, scaled, and asked once"
    apart = torch.cat([judge.judge(picture[None]).probabilities for picture in PICTURES])
    assert torch.allclose(apart, verdicts.probabilities, atol=1e-5)
    assert judge.judge(PICTURES[:0]).names == ()


def test_a_classifier_is_asked_for_in_one_word(classifier_folder: Path) -> None:
    panel = load_panel(f"image-classifier:{classifier_folder}#church,top=2,threshold=0.1")
    assert panel.asked == ("church, church building",)
    assert panel.concept.threshold == 0.1
    question = load_question(f"image-classifier:{classifier_folder}#church,tench,top=4")
    assert question(PICTURES).tolist() == [True] * 5, "both are among the four most probable"
    with pytest.raises(EvaluationError, match="cannot name 'dog'"):
        load_panel(f"image-classifier:{classifier_folder}#dog")


def test_a_classifier_needs_no_threshold(classifier_folder: Path) -> None:
    """The most probable label is named, however probable; a detector would name all of them."""
    judge = load_panel(f"image-classifier:{classifier_folder}#church").concept
    verdicts = judge.judge(PICTURES)
    assert judge.threshold == 0
    check_declared(judge, verdicts)
    with pytest.raises(EvaluationError, match="expected the declared one"):
        check_declared(judge, replace(verdicts, exclusive=False))


def test_the_digest_is_that_of_the_weights(classifier_folder: Path, tmp_path: Path) -> None:
    def nudge(weights: dict[str, torch.Tensor]) -> None:
        weights["classifier.bias"][0] += 1e-3

    same = altered(classifier_folder, tmp_path / "same", lambda weights: None)
    other = altered(classifier_folder, tmp_path / "other", nudge)
    digests = [load_image_classifier(str(folder)).sha256 for folder in (classifier_folder, same, other)]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("classifier.weight"), "lacks weights"),
        (lambda w: w.update(extra=torch.zeros(1)), "has surplus weights"),
        (lambda w: w.update({"classifier.bias": torch.zeros(9)}), "misshapen|cannot be loaded"),
        (lambda w: w["classifier.bias"].fill_(float("nan")), "not finite"),
    ],
)
def test_a_judge_that_would_answer_at_random_is_refused(
    classifier_folder: Path,
    tmp_path: Path,
    change: Callable[[dict[str, torch.Tensor]], None],
    message: str,
) -> None:
    with pytest.raises(EvaluationError, match=message):
        load_image_classifier(str(altered(classifier_folder, tmp_path / "bad", change)))


def test_pickled_weights_are_not_read(classifier_folder: Path, tmp_path: Path) -> None:
    folder = altered(classifier_folder, tmp_path / "pickled", lambda weights: None)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(EvaluationError, match=r"has no safetensors file.*are not read"):
        load_image_classifier(str(folder))
    (folder / "other.safetensors").write_bytes((folder / "pytorch_model.bin").read_bytes())
    with pytest.raises(EvaluationError, match="cannot be loaded as a judge"):
        load_image_classifier(str(folder))


def test_code_of_a_repository_is_not_run(classifier_folder: Path, tmp_path: Path) -> None:
    folder = altered(classifier_folder, tmp_path / "code", lambda weights: None)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoModelForImageClassification": "evil.Evil"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    with pytest.raises(EvaluationError, match="cannot be loaded as a judge"):
        load_image_classifier(str(folder))


def test_a_place_that_is_none() -> None:
    with pytest.raises(EvaluationError, match="neither a folder here nor a Hub id"):
        load_image_classifier("/no/such/folder/anywhere")


def test_other_labels_are_refused(classifier_folder: Path, tmp_path: Path) -> None:
    folder = altered(classifier_folder, tmp_path / "labels", lambda weights: None)
    config = json.loads((folder / "config.json").read_text())
    config["id2label"]["1"] = config["id2label"]["0"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(EvaluationError, match="expected two or more that differ"):
        load_image_classifier(str(folder))


def test_pictures_must_be_pictures(classifier_folder: Path) -> None:
    with pytest.raises(EvaluationError, match="expected uint8 pictures"):
        load_image_classifier(str(classifier_folder)).judge(PICTURES.float())


def test_clip_compares_captions(clip_folder: Path) -> None:
    from transformers import CLIPModel

    checkpoint = load_clip(str(clip_folder))
    judge = ClipJudge(checkpoint, name="clip", labels=("dog", "cat", "fish"))
    assert judge.captions == ("a photo of a dog", "a photo of a cat", "a photo of a fish")
    verdicts = judge.judge(PICTURES)
    assert verdicts.probabilities.sum(dim=1).tolist() == pytest.approx([1] * 5, abs=1e-5)
    words = checkpoint.tokenizer(list(judge.captions), padding=True, truncation=True, return_tensors="pt")
    model = CLIPModel.from_pretrained(clip_folder).eval()
    with torch.no_grad():
        answer = model(pixel_values=checkpoint.pixels(PICTURES), **words)
        cosines = answer.image_embeds @ answer.text_embeds.T
    expected = (model.logit_scale.exp() * cosines).softmax(-1)
    assert torch.allclose(verdicts.probabilities, expected, atol=1e-5)
    assert judge.judge(PICTURES[:0]).names == ()


def test_clip_is_asked_for_in_one_word(clip_folder: Path) -> None:
    panel = load_panel(f"clip:{clip_folder}#dog,against=cat,against=fish,template=a {{}},threshold=0.3")
    assert panel.asked == ("dog",)
    assert panel.concept.labels == ("dog", "cat", "fish")
    assert panel.concept.threshold == 0.3
    assert load_panel(f"clip:{clip_folder}#dog").concept.labels == ("dog", "something else")
    with pytest.raises(ConfigError, match="not told what to look for"):
        load_panel(f"clip:{clip_folder}")
    with pytest.raises(ConfigError, match="expected two or more labels that differ"):
        load_panel(f"clip:{clip_folder}#dog,against=dog")


def test_a_classifier_is_no_clip(classifier_folder: Path) -> None:
    with pytest.raises(EvaluationError):
        load_clip(str(classifier_folder))


def test_clip_features_are_its_picture_embeddings(clip_folder: Path) -> None:
    extractor = clip_extractor(str(clip_folder))
    scorer = ClipScorer.load(str(clip_folder))
    seen, _ = scorer.embeddings(PICTURES, ["dog"] * 5)
    features = extractor(PICTURES).float()
    assert features.shape == (5, 8)
    assert torch.allclose(features / features.norm(dim=-1, keepdim=True), seen, atol=1e-5)
    assert extractor.name == f"clip:{clip_folder}"


def test_classifier_features_are_pooled(classifier_folder: Path) -> None:
    extractor = classifier_extractor(str(classifier_folder))
    assert extractor(PICTURES).shape == (5, 16)
    assert extractor.sha256 == load_image_classifier(str(classifier_folder)).sha256


def test_judges_lend_the_features_of_their_extractors(clip_folder: Path, classifier_folder: Path) -> None:
    kinds = {f"clip:{clip_folder}": "#dog", f"image-classifier:{classifier_folder}": ""}
    for name, labels in kinds.items():
        lent, asked = judge_extractor(load_panel(f"{name}{labels}").concept), load_extractor(name)
        assert lent is not None
        assert (lent.name, lent.sha256) == (asked.name, asked.sha256)
        assert torch.allclose(lent(PICTURES), asked(PICTURES), atol=1e-6)


def test_the_clip_score_of_pictures(clip_folder: Path) -> None:
    scorer = ClipScorer.load(str(clip_folder))
    prompts = ["dog", "cat", "dog", "fish", "a very long prompt " * 30]
    seen, read = scorer.embeddings(PICTURES, prompts)
    expected = [reference.clip_score(a, b) for a, b in zip(seen.numpy(), read.numpy(), strict=True)]
    scores = scorer.scores(PICTURES, prompts)
    assert scores.tolist() == pytest.approx(expected, abs=1e-4)
    alone = scorer.scores(PICTURES[1:2], prompts[1:2])
    assert alone.tolist() == pytest.approx(scores[1:2].tolist(), abs=1e-3)
    estimate = scorer.estimate(PICTURES, prompts, generator=torch.Generator().manual_seed(0), resamples=50)
    assert estimate.value == pytest.approx(float(scores.mean()), abs=1e-5)
    assert (estimate.prompts, estimate.pictures) == (4, 5)
    same = scorer.agreement(
        PICTURES, PICTURES, prompts, generator=torch.Generator().manual_seed(0), resamples=50
    )
    assert (same.value, same.low) == (pytest.approx(1, abs=1e-5), pytest.approx(1, abs=1e-5))
    with pytest.raises(EvaluationError, match="expected one prompt per picture"):
        scorer.scores(PICTURES, ["dog"])
