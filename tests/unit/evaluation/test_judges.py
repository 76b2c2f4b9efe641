"""Judges: found by being there, fixed thresholds, and no guessing about pictures they were not made for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from diffusers_erasure.embedded.judges import JudgeNetwork
from diffusers_erasure.errors import ConfigError, EvaluationError
from diffusers_erasure.evaluation.judges import Judge, Verdicts, judge, judges, load_panel, registry
from diffusers_erasure.evaluation.judges.embedded import EmbeddedJudge
from diffusers_erasure.evaluation.prompt_sets import JudgeRole

PICTURES = torch.randint(0, 256, (3, 3, 64, 64), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


@pytest.fixture
def _clean_registry() -> Iterator[None]:
    before = judges()
    yield
    registry._REGISTRY.clear()
    registry._REGISTRY.update(before)


def test_the_embedded_judges_are_there() -> None:
    roles = {name: spec.role for name, spec in judges().items() if spec.family == "embedded"}
    assert roles == {
        "embedded-concept": JudgeRole.CONCEPT,
        "embedded-concept-2": JudgeRole.SECOND,
        "embedded-style": JudgeRole.STYLE,
    }


@pytest.mark.usefixtures("_clean_registry")
def test_a_judge_registers_itself() -> None:
    @judge("mine", family="mine", role=JudgeRole.CONCEPT)
    def load(device: str) -> Judge:
        return EmbeddedJudge("mine", JudgeNetwork("concept"), sha256="0" * 64, device=device)

    panel = load_panel("mine")
    assert [member.name for member in panel.members] == ["mine"]
    with pytest.raises(ConfigError, match="no style judge"):
        panel.of(JudgeRole.STYLE)
    with pytest.raises(ConfigError, match=r"two judges are named 'mine', in .*test_judges and in"):
        judge("mine", family="other", role=JudgeRole.STYLE)(load)


def test_an_unknown_panel_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"known panels are .*embedded.*did you mean 'embedded'\?"):
        load_panel("embeded")


def test_the_most_probable_label_is_named_if_it_is_probable_enough() -> None:
    verdicts = Verdicts(
        ("dog", "cat", "none"), torch.tensor([[0.6, 0.3, 0.1], [0.24, 0.22, 0.2], [0.1, 0.1, 0.8]]), 0.25
    )
    assert verdicts.names == ("dog", "none", "none")
    assert verdicts.shows([("dog",), ("dog", "cat"), ("cat",)]) == (True, False, False)
    assert verdicts.shows([("cat", "dog"), ("none",), ("cat",)]) == (True, True, False)
    with pytest.raises(EvaluationError, match="cannot name 'horse'"):
        verdicts.shows([("horse",)] * 3)


@pytest.mark.parametrize("which", ["concept", "concept-2", "style"])
def test_an_embedded_judge_looks_at_pictures(which: str) -> None:
    torch.manual_seed(0)
    member = EmbeddedJudge(which, JudgeNetwork(which).eval(), sha256="0" * 64)
    verdicts = member.judge(PICTURES)
    assert verdicts.probabilities.shape == (3, len(member.labels))
    assert verdicts.probabilities.sum(dim=1).tolist() == pytest.approx([1, 1, 1], abs=1e-5)
    assert verdicts.threshold == member.threshold == 0.25
    apart = torch.cat([member.judge(picture[None]).probabilities for picture in PICTURES])
    assert torch.allclose(apart, verdicts.probabilities, atol=1e-5)
    assert member.judge(PICTURES[:0]).names == ()


@pytest.mark.parametrize("pictures", [PICTURES[:, :, :32], PICTURES.float(), PICTURES[0]])
def test_pictures_of_another_kind_are_refused(pictures: torch.Tensor) -> None:
    member = EmbeddedJudge("concept", JudgeNetwork("concept").eval(), sha256="0" * 64)
    with pytest.raises(EvaluationError, match="it was trained on uint8 pictures of 64x64 pixels"):
        member.judge(pictures)
