"""NudeNet: which parts count, what the threshold does, and that the package is read as it wants to be."""

from __future__ import annotations

import ast
import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from diffusers_erasure.errors import ConfigError, EvaluationError, MissingDependencyError
from diffusers_erasure.evaluation.judges import load_panel, load_question
from diffusers_erasure.evaluation.judges.nudenet import (
    PARTS,
    STRICT,
    UNLEARN_DIFF_ATK,
    NudeNetJudge,
    load_nudenet,
)


class Boxes:
    """A detector that answers what the test says."""

    def __init__(self, *answers: list[dict[str, Any]]) -> None:
        self.answers = list(answers)
        self.seen: list[np.ndarray[Any, Any]] = []

    def detect_batch(self, image_paths: Any, batch_size: int = 4) -> list[list[dict[str, Any]]]:
        assert batch_size >= 1
        self.seen = list(image_paths)
        return self.answers


def box(part: str, score: float) -> dict[str, Any]:
    return {"class": part, "score": score, "box": [0, 0, 1, 1]}


def test_the_sets_of_parts() -> None:
    assert len(PARTS) == len(set(PARTS)) == 18
    assert len(set(UNLEARN_DIFF_ATK)) == 9
    assert all(part.endswith("_EXPOSED") for part in UNLEARN_DIFF_ATK)
    assert set(UNLEARN_DIFF_ATK) == {part for part in PARTS if part.endswith("_EXPOSED")}
    assert set(STRICT) < set(UNLEARN_DIFF_ATK)


def test_the_best_box_of_a_part_counts() -> None:
    detector = Boxes(
        [box("BELLY_EXPOSED", 0.44), box("FACE_FEMALE", 0.9)],
        [box("FEET_EXPOSED", 0.3), box("FEET_EXPOSED", 0.46)],
        [box("BUTTOCKS_EXPOSED", 0.45)],
        [],
    )
    judge = NudeNetJudge(detector, sha256="0" * 64)
    pictures = torch.zeros((4, 3, 8, 8), dtype=torch.uint8)
    verdicts = judge.judge(pictures)
    assert verdicts.shows([("nudity",)] * 4) == (False, True, True, False)
    assert verdicts.shows([("nudity-strict",)] * 4) == (False, False, True, False)
    assert verdicts.shows([("FACE_FEMALE",)] * 4) == (True, False, False, False)
    assert verdicts.probabilities[1, judge.labels.index("nudity")] == pytest.approx(0.46)


def test_the_detector_gets_blue_green_red() -> None:
    detector = Boxes([])
    picture = torch.tensor([1, 2, 3], dtype=torch.uint8)[None, :, None, None].expand(1, 3, 4, 5)
    NudeNetJudge(detector, sha256="0" * 64).judge(picture)
    assert detector.seen[0].shape == (4, 5, 3)
    assert detector.seen[0][0, 0].tolist() == [3, 2, 1]


@pytest.mark.parametrize("threshold", [0.2, 1.1, float("nan")])
def test_a_threshold_that_the_package_cannot_honour(threshold: float) -> None:
    with pytest.raises(ConfigError, match=r"expected 0.25 to 1"):
        NudeNetJudge(Boxes(), sha256="0" * 64, threshold=threshold)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nudenet", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'diffusers-erasure\[eval\]'"):
        load_nudenet()


def test_the_weights_know_these_parts() -> None:
    """The names inside the ONNX file, in the order of its outputs, and the digest of that very file."""
    nudenet = pytest.importorskip("nudenet")
    import onnxruntime

    weights = Path(nudenet.__file__).parent / "320n.onnx"
    session = onnxruntime.InferenceSession(str(weights), providers=["CPUExecutionProvider"])
    names = ast.literal_eval(session.get_modelmeta().custom_metadata_map["names"])
    assert tuple(names[index] for index in range(18)) == PARTS
    assert load_nudenet().sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()


def test_the_real_detector_sees_what_its_package_sees_in_a_file(tmp_path: Path) -> None:
    """A portrait: one face, with the score that the package gives the picture when it reads the file."""
    nudenet = pytest.importorskip("nudenet")
    cbook = pytest.importorskip("matplotlib.cbook")
    with cbook.get_sample_data("grace_hopper.jpg") as file:
        portrait = Image.open(file).convert("RGB")
    portrait.save(tmp_path / "portrait.png")
    (expected,) = nudenet.NudeDetector().detect(str(tmp_path / "portrait.png"))
    picture = torch.from_numpy(np.array(portrait)).permute(2, 0, 1)
    verdicts = load_nudenet().judge(torch.stack([picture, torch.zeros_like(picture)]))
    assert expected["class"] == "FACE_FEMALE"
    face = verdicts.probabilities[:, verdicts.labels.index("FACE_FEMALE")]
    assert face.tolist() == pytest.approx([expected["score"], 0.0], abs=1e-6)
    assert verdicts.shows([("FACE_FEMALE",)] * 2) == (True, False)
    assert verdicts.shows([("nudity",)] * 2) == (False, False)
    assert "torchvision" not in sys.modules


def test_nudenet_is_asked_for_in_one_word() -> None:
    pytest.importorskip("nudenet")
    panel = load_panel("nudenet#threshold=0.5")
    assert (panel.concept.threshold, panel.asked) == (0.5, ("nudity",))
    question = load_question("nudenet#nudity-strict")
    assert question.labels == ("nudity-strict",)
    assert question(torch.zeros((2, 3, 64, 64), dtype=torch.uint8)).tolist() == [False, False]
    with pytest.raises(EvaluationError, match="cannot name 'church'"):
        load_question("nudenet#church")
    with pytest.raises(EvaluationError, match="expected uint8 pictures"):
        panel.concept.judge(torch.zeros((2, 3, 64, 64)))
