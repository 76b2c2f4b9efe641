"""Asking for a judge in one word, and for one question of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from diffusers_erasure.errors import ConfigError, EvaluationError
from diffusers_erasure.evaluation.judges import (
    JudgeRequest,
    Panel,
    Verdicts,
    find_labels,
    judge_families,
    judge_family,
    load_panel,
    load_question,
    panel_question,
    parse_judge,
    registry,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("embedded", JudgeRequest("embedded")),
        ("embedded#church", JudgeRequest("embedded", labels=("church",))),
        ("nudenet#threshold=0.5", JudgeRequest("nudenet", options={"threshold": ("0.5",)})),
        (
            "image-classifier:microsoft/resnet-50@4067a2d#church,garbage truck,top=3",
            JudgeRequest(
                "image-classifier",
                "microsoft/resnet-50",
                "4067a2d",
                ("church", "garbage truck"),
                {"top": ("3",)},
            ),
        ),
        (
            "clip:./some where#dog,against=cat,against=horse",
            JudgeRequest("clip", "./some where", None, ("dog",), {"against": ("cat", "horse")}),
        ),
    ],
)
def test_a_request_in_one_word(text: str, expected: JudgeRequest) -> None:
    assert parse_judge(text) == expected


def test_a_folder_may_have_an_at_sign(tmp_path: pytest.TempPathFactory) -> None:
    folder = tmp_path / "judge@home"  # type: ignore[operator]
    folder.mkdir()
    assert parse_judge(f"image-classifier:{folder}").location == str(folder)
    assert parse_judge(f"image-classifier:{folder}").revision is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("#church", "names no family"),
        ("nudenat", r"known panels are .*did you mean 'nudenet'\?"),
        ("image-classifier", "named without its weights"),
        ("nudenet:some/where", "it brings its own weights"),
        ("embedded:some/where", "it brings its own weights"),
        ("embedded#threshold=0.5", "has no option 'threshold'; it knows none"),
        ("nudenet#treshold=0.5", r"did you mean 'threshold'\?"),
        ("nudenet#threshold=0.1", "expected a number from 0.25 to 1"),
        ("nudenet#threshold=high", "expected a number from 0.25 to 1"),
        ("nudenet#threshold=0.5,threshold=0.6", "was given 2 times"),
    ],
)
def test_what_cannot_be_asked_for(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_panel(text)


def test_every_family_is_known() -> None:
    assert {"embedded", "nudenet", "image-classifier", "clip"} <= set(judge_families())


def test_a_label_is_found_by_one_of_its_words() -> None:
    known = ("church, church building", "garbage_truck", "French horn, horn", "horn")
    assert find_labels(("Church", "garbage truck"), known) == ("church, church building", "garbage_truck")
    assert find_labels(("horn",), known) == ("horn",)
    assert find_labels(("church", "church building"), known) == ("church, church building",)
    with pytest.raises(EvaluationError, match=r"cannot name 'truck'.*ask about one of these"):
        find_labels(("truck",), known)
    with pytest.raises(EvaluationError, match="could be the labels 'a, b', 'b, c'"):
        find_labels(("b",), ("a, b", "b, c"))


def test_a_label_within_the_most_probable_ones() -> None:
    probabilities = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]])
    asked = [("a",)] * 2
    assert Verdicts(("a", "b", "c"), probabilities, 0.0).shows(asked) == (True, False)
    assert Verdicts(("a", "b", "c"), probabilities, 0.15, top=2).shows([("b",)] * 2) == (True, True)
    assert Verdicts(("a", "b", "c"), probabilities, 0.25, top=2).shows([("b",)] * 2) == (True, False)
    assert Verdicts(("a", "b", "c"), probabilities, 0.0, top=9).shows(asked) == (True, True)


def test_labels_that_do_not_exclude_each_other() -> None:
    verdicts = Verdicts(("a", "b"), torch.tensor([[0.6, 0.9], [0.1, 0.45]]), 0.45, exclusive=False)
    assert verdicts.named.tolist() == [[True, True], [False, True]]
    assert verdicts.shows([("a",), ("a",)]) == (True, False)


def test_a_question_is_asked_of_the_judge_that_knows(panel: Panel) -> None:
    church = panel_question(panel, ("church",))
    assert church.judge is panel.concept
    index = church.judge.labels.index("church")
    pictures = torch.zeros((3, 3, 8, 8), dtype=torch.uint8)
    pictures[1] = index
    assert church(pictures).tolist() == [False, True, False]
    assert church(pictures).dtype == torch.bool
    assert panel_question(panel, ("ink",)).judge is panel.style
    assert panel_question(panel, ("church",), second=True).judge is panel.second
    assert str(church) == "church by corner test, threshold 0.5"
    with pytest.raises(EvaluationError, match="cannot name 'kraken'"):
        panel_question(panel, ("kraken",))
    with pytest.raises(ConfigError, match="nothing was asked"):
        panel_question(panel, ())


def test_labels_of_the_request_come_first() -> None:
    assert load_question("embedded#dog", ("cat",)).labels == ("dog",)
    assert load_question("embedded", ("cat",)).labels == ("cat",)
    assert load_question("embedded#ink").judge.name == "embedded-style"


@pytest.fixture
def _clean_families() -> Iterator[None]:
    judge_families()
    before = dict(registry._FAMILIES)
    yield
    registry._FAMILIES.clear()
    registry._FAMILIES.update(before)


@pytest.mark.usefixtures("_clean_families")
def test_another_package_adds_a_family(panel_of: Callable[..., Panel]) -> None:
    @judge_family("mine")
    def load(request: JudgeRequest, device: str) -> Panel:
        return panel_of(style=False)

    assert load_panel("mine:anything#dog").asked == ("dog",)
    with pytest.raises(ConfigError, match="two families of judges are named 'mine'"):
        judge_family("mine")(load)
