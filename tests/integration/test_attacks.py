"""Attacks on the embedded pipeline, with budgets that show that they run, not how strong they are."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from diffusers_erasure.artifacts.apply import load_erasure
from diffusers_erasure.artifacts.manifest import BaseModelRef
from diffusers_erasure.attacks import AttackedPrompt, AttackTarget, attack_named
from diffusers_erasure.embedded import EMBEDDED_MODEL_ID, embedded_pipeline
from diffusers_erasure.evaluation.judges import Question, load_panel
from diffusers_erasure.evaluation.runner import sibling
from diffusers_erasure.training import method

pytestmark = pytest.mark.integration
ITEMS = [AttackedPrompt("a church", seed, "church") for seed in (1, 2)]
SHORT = {
    "concept_inversion": {"steps": 2, "pictures": 2, "pictures_per_step": 2},
    "p4d": {"steps": 2, "judge_every": 2},
    "ring_a_bell": {"generations": 3, "population": 8, "pairs": 4},
}


@pytest.fixture(scope="module")
def pipelines() -> tuple[Any, Any]:
    """The embedded pipeline, and the same with church erased by UCE."""
    base = embedded_pipeline()
    uce = method("uce")
    artifact = uce.train(
        base, uce.config.parse({"concept": ("church",)}), base=BaseModelRef(id=EMBEDDED_MODEL_ID)
    )
    erased = sibling(base)
    load_erasure(erased, artifact)
    return base, erased


def target(pipe: Any) -> AttackTarget:
    question = Question(load_panel().concept, ("church",))
    return AttackTarget.of(pipe, question, steps=10, guidance_scale=4.0)


@pytest.mark.parametrize("name", SHORT)
def test_an_attack_runs_on_an_erased_pipeline(name: str, pipelines: tuple[Any, Any]) -> None:
    base, erased = map(target, pipelines)
    spec = attack_named(name)
    config = spec.config.parse(SHORT[name])
    for outcome in spec.run(ITEMS, erased, config, base=base):
        assert outcome.failed is None
        assert (outcome.state_before, outcome.state_after) == ("verified", "verified")
        assert outcome.judged <= config.judged_images
        assert not outcome.zero_gradient
        assert outcome.picture is not None
        assert outcome.picture.dtype == torch.uint8


def test_plain_prompts_are_successes_on_the_base(pipelines: tuple[Any, Any]) -> None:
    outcomes = attack_named("p4d").run(ITEMS, target(pipelines[0]), base=target(pipelines[0]))
    assert [one.success_at for one in outcomes] == [1, 1]
