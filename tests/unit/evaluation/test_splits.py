"""Splits: what is measured on was neither trained on nor tuned on."""

from __future__ import annotations

import pytest

from diffusers_erasure.concepts import resolve_concepts
from diffusers_erasure.errors import EvaluationError
from diffusers_erasure.evaluation.embedded_prompts import embedded_prompt_plan
from diffusers_erasure.evaluation.splits import check_disjoint, duplicates, split_record, training_prompts


@pytest.mark.parametrize(
    "leak",
    ["an image of a church", "An image of church!", "an image of the  church", "an image of a churchs"],
)
def test_a_test_prompt_that_was_trained_on_is_found(leak: str) -> None:
    plan = embedded_prompt_plan(tuple(resolve_concepts(["church"])), n=20)
    with pytest.raises(EvaluationError, match="occur in the training prompts"):
        check_disjoint(plan.sets[0].prompts, ["a dog", leak])


@pytest.mark.parametrize("name", ["church", "ink", "weapons"])
def test_no_test_prompt_is_trained_or_tuned_on(name: str) -> None:
    concepts = tuple(resolve_concepts([name]))
    plan = embedded_prompt_plan(concepts, n=50)
    test = {prompt for prompt_set in plan.sets for prompt in prompt_set.prompts}
    assert duplicates(sorted(test), (*training_prompts(concepts, {}), *plan.dev)) == []
    assert duplicates(sorted(test)[:1], sorted(test)) != []


def test_prompts_that_the_settings_name_are_training_prompts() -> None:
    concepts = tuple(resolve_concepts(["church"]))
    assert "a red barn" in training_prompts(concepts, {"retain": ["a red barn"], "steps": 5})


def test_a_split_has_a_digest_of_its_prompts() -> None:
    assert split_record("test", ["b", "a", "a"]) == split_record("test", ["a", "b"])
    assert split_record("test", ["a"]).sha256 != split_record("test", ["b"]).sha256


def test_dev_and_test_share_no_seed() -> None:
    concepts = tuple(resolve_concepts(["church"]))
    seeds = [
        {seed for one in embedded_prompt_plan(concepts, n=50, split=split).sets for seed in one.seeds}
        for split in ("test", "dev")
    ]
    assert not seeds[0] & seeds[1]
