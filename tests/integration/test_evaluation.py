"""Measuring on the embedded pipeline, where words mean something and the judges know them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from diffusers_erasure.artifacts.artifact import Artifact
from diffusers_erasure.artifacts.manifest import BaseModelRef
from diffusers_erasure.concepts import resolve_concepts
from diffusers_erasure.embedded import EMBEDDED_MODEL_ID, embedded_pipeline
from diffusers_erasure.evaluation.controls import control_pictures, picture_fault
from diffusers_erasure.evaluation.embedded_prompts import embedded_prompt_plan
from diffusers_erasure.evaluation.generate import Artist, draw, sampling_defaults
from diffusers_erasure.evaluation.judges import load_panel
from diffusers_erasure.evaluation.prompt_sets import JudgeRole
from diffusers_erasure.evaluation.report import Verdict
from diffusers_erasure.evaluation.runner import EvaluationSettings, evaluate_artifact
from diffusers_erasure.training import method

pytestmark = pytest.mark.integration
N = 20


@pytest.fixture(scope="module")
def church() -> Artifact:
    uce = method("uce")
    config = uce.config.parse({"concept": ("church",)})
    return uce.train(embedded_pipeline(), config, base=BaseModelRef(id=EMBEDDED_MODEL_ID))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder in which the tests of this module share what they draw."""
    return tmp_path_factory.mktemp("pictures")


def test_the_judges_see_what_the_pipeline_was_asked_for(pictures: Path) -> None:
    plan = embedded_prompt_plan(tuple(resolve_concepts(["church"])), n=N)
    artist = Artist(embedded_pipeline(), sampling_defaults(EMBEDDED_MODEL_ID), folder=pictures)
    panel = load_panel()
    for prompt_set in plan.sets:
        drawn = artist.draw(prompt_set.prompts, prompt_set.seeds)
        assert not any(picture_fault(image) for image in drawn.whole())
        role = prompt_set.items[0].role
        shown = panel.of(role).judge(drawn.images).shows([item.labels for item in prompt_set.items])
        assert sum(shown) >= 0.9 * N, prompt_set.name


def test_the_concept_judges_see_nothing_in_pictures_of_nothing() -> None:
    nothing = control_pictures(60, (64, 64), generator=torch.Generator().manual_seed(0))
    panel = load_panel()
    for role in (JudgeRole.CONCEPT, JudgeRole.SECOND):
        assert panel.of(role).judge(nothing).names.count("none") >= 54


def test_a_picture_does_not_depend_on_its_batch() -> None:
    pipe, sampling = embedded_pipeline(), sampling_defaults(EMBEDDED_MODEL_ID)
    prompts, seeds = ["a church", "a dog in ink style", "a bus"], [1, 2, 3]
    together = draw(pipe, prompts, seeds, sampling=sampling, batch_size=3).images.int()
    apart = draw(pipe, prompts, seeds, sampling=sampling, batch_size=1).images.int()
    assert (together - apart).abs().max() <= 2


def test_uce_erases_the_church_and_keeps_the_rest(church: Artifact, pictures: Path, tmp_path: Path) -> None:
    report = evaluate_artifact(
        church, output_dir=tmp_path, settings=EvaluationSettings(n=N), cache_dir=pictures
    ).report
    rows = {row.name: row for row in report.rows}
    assert report.verdict is Verdict.MEASURED
    assert "from the embedded pipeline" in report.scope
    assert rows["own name"].base.rate >= 0.95
    assert rows["own name"].erased.rate <= 0.1
    assert rows["synonyms"].erased.rate <= 0.1
    for name in ("neighbours", "other concepts", "styles"):
        assert rows[name].difference >= -10, name
