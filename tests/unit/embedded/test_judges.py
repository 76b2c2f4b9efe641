"""The judges: shapes, labels, and refusals; whether they judge well is measured with their weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from diffusers_erasure.embedded import judges
from diffusers_erasure.embedded.judges import JUDGE_LABELS, NONE, JudgeName, JudgeNetwork, load_judge
from diffusers_erasure.embedded.recipe.pack import pack_judge
from diffusers_erasure.embedded.vocabulary import CONCEPTS, STYLES
from diffusers_erasure.errors import ArtifactFormatError, ArtifactNotFoundError, ConfigError

NAMES: tuple[JudgeName, ...] = ("concept", "concept-2", "style")
every_judge = pytest.mark.parametrize("name", NAMES)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the judges are looked for; empty."""
    monkeypatch.setattr(judges, "_FOLDER", tmp_path)
    return tmp_path


def new_judge(name: JudgeName, seed: int = 0) -> JudgeNetwork:
    torch.manual_seed(seed)
    return JudgeNetwork(name).eval()


def test_the_labels_are_the_vocabulary_and_only_concept_judges_may_see_nothing() -> None:
    assert JUDGE_LABELS["concept"] == JUDGE_LABELS["concept-2"] == (*CONCEPTS, NONE)
    assert JUDGE_LABELS["style"] == STYLES
    assert NONE not in CONCEPTS


def test_the_second_opinion_comes_from_another_kind_of_network() -> None:
    kinds = [type(new_judge(name).network) for name in ("concept", "concept-2")]
    assert kinds[0] is not kinds[1]


@every_judge
def test_probabilities(name: JudgeName) -> None:
    judge = new_judge(name)
    images = torch.rand(3, 3, 64, 64)
    probabilities = judge.probabilities(images)
    assert probabilities.shape == (3, len(judge.labels))
    assert not probabilities.requires_grad
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(3))
    torch.testing.assert_close(probabilities[1], judge.probabilities(images[1:2])[0])
    torch.testing.assert_close(judge.probabilities(images.half()), judge.probabilities(images.half().float()))


@every_judge
def test_what_a_judge_says_depends_on_the_picture(name: JudgeName) -> None:
    dark, bright = new_judge(name)(torch.stack([torch.zeros(3, 64, 64), torch.ones(3, 64, 64)]))
    assert not torch.allclose(dark, bright, atol=1e-3)


def test_pictures_of_another_size_are_resized() -> None:
    judge = new_judge("style")
    small = torch.rand(2, 3, 64, 64)
    large = small.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)
    # Antialiasing blurs a little across the borders of the repeated pixels.
    torch.testing.assert_close(judge.probabilities(large), judge.probabilities(small), atol=0.01, rtol=0)


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 1, 64, 64), (1, 4, 64, 64)])
def test_what_is_no_batch_of_rgb_pictures_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"\(batch, 3, height, width\).*got \("):
        new_judge("style")(torch.zeros(shape))


def test_an_unknown_judge_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'colour'.*concept, concept-2, style"):
        load_judge("colour")  # type: ignore[arg-type]


def test_missing_weights_are_said_to_be_missing(folder: Path) -> None:
    with pytest.raises(ArtifactNotFoundError, match=r"style\.safetensors.*install"):
        load_judge("style")


@every_judge
def test_packed_weights_come_back(folder: Path, name: JudgeName) -> None:
    judge = new_judge(name)
    pack_judge(judge, folder)
    loaded = load_judge(name)
    assert not loaded.training
    assert loaded.labels == judge.labels
    packed = judge.state_dict()
    assert set(loaded.state_dict()) == set(packed)
    for key, value in loaded.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, packed[key].half().float()), key
    assert (folder / f"{name}.safetensors").stat().st_size < 1.2 * 2 * sum(v.numel() for v in packed.values())


def test_a_judge_of_another_vocabulary_is_refused(folder: Path) -> None:
    pack_judge(new_judge("style"), folder)
    labels = [*STYLES[1:], STYLES[0]]
    (folder / "style.json").write_text(json.dumps({"labels": labels}), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"'style' was trained on another vocabulary.*train it again"):
        load_judge("style")


def test_weights_of_another_judge_do_not_load(folder: Path) -> None:
    pack_judge(new_judge("concept"), folder)
    pack_judge(new_judge("style"), folder)
    (folder / "concept.safetensors").replace(folder / "style.safetensors")
    with pytest.raises(ArtifactFormatError, match=r"(?s)style\.safetensors are damaged.*install the package"):
        load_judge("style")


def test_cut_off_weights_do_not_load(folder: Path) -> None:
    pack_judge(new_judge("style"), folder)
    path = folder / "style.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ArtifactFormatError, match=r"style\.safetensors are damaged"):
        load_judge("style")
