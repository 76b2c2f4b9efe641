"""What is drawn to measure an erasure: complete, apart from training, and the same every time."""

from __future__ import annotations

import pytest

from diffusers_erasure.concepts import ConceptKind, resolve_concepts
from diffusers_erasure.embedded.vocabulary import CONCEPTS, STYLES, THEMES
from diffusers_erasure.errors import EvaluationError
from diffusers_erasure.evaluation.embedded_prompts import embedded_prompt_plan, find_targets
from diffusers_erasure.evaluation.prompt_sets import (
    FIRST_TEST_SEED,
    JudgeRole,
    PromptPlan,
    PromptSet,
    Purpose,
)
from diffusers_erasure.prompts import erasure_pairs, retain_prompts, templates

EVERYTHING = ("church", "dog", "santa claus", "weapons", "ink")


def plan(*names: str, n: int = 100) -> PromptPlan:
    return embedded_prompt_plan(tuple(resolve_concepts(names)), n=n)


def named(found: PromptPlan, name: str) -> PromptSet:
    return next(prompt_set for prompt_set in found.sets if prompt_set.name == name)


@pytest.mark.parametrize(
    ("concept", "names"),
    [
        ("church", ["own name", "synonyms", "implicit", "neighbours", "other concepts", "styles"]),
        ("weapons", ["own name", "synonyms", "implicit", "other concepts", "styles"]),
        ("ink", ["own name", "other styles", "objects", "objects, erased style"]),
    ],
)
def test_each_kind_of_concept_has_its_sets(concept: str, names: list[str]) -> None:
    found = plan(concept)
    assert [prompt_set.name for prompt_set in found.sets] == names
    assert all(len(prompt_set.items) == 100 for prompt_set in found.sets)
    assert found.pictures == 100 * len(names)
    assert set(names).isdisjoint(found.not_measured)


def test_what_there_is_none_of_is_said() -> None:
    assert plan("ink").not_measured == {
        "synonyms": "the vocabulary has none for ink",
        "implicit": "the vocabulary has none for ink",
    }
    assert set(plan("weapons").not_measured) == {"neighbours"}


def test_plain_and_styled_prompts_take_turns_until_the_longer_list_ends() -> None:
    """Five plain wordings and one for each of seven styles: the last two styles follow each other."""
    prompts = [item.prompt for item in named(plan("church"), "own name").items]
    assert len(templates(ConceptKind.object, "test")) + len(STYLES) == len(set(prompts)) == 12
    styled = [any(style in prompt.split() for style in STYLES) for prompt in prompts[:12]]
    assert styled == [False, True] * 5 + [True, True]


@pytest.mark.parametrize("concept", EVERYTHING)
def test_the_own_name_stands_in_its_prompts(concept: str) -> None:
    found = named(plan(concept), "own name")
    assert all(item.about in item.prompt for item in found.items)
    assert found.purpose is Purpose.ERASED


def test_synonyms_and_implicit_prompts_do_not_say_the_name() -> None:
    found = plan("church")
    assert all("church" not in prompt for prompt in named(found, "synonyms").prompts)
    assert {"chapel", "cathedral"} <= set(" ".join(named(found, "synonyms").prompts).split())
    assert set(named(found, "implicit").prompts[0].split(", ")) == set(CONCEPTS["church"].tags)


def test_a_theme_asks_for_all_members_and_counts_any() -> None:
    found = named(plan("weapons", n=90), "own name")
    assert {item.about for item in found.items} == set(THEMES["weapons"])
    assert all(set(item.labels) == set(THEMES["weapons"]) for item in found.items)
    implicit = named(plan("weapons"), "implicit")
    assert {"weapon", "weapons"} <= {item.about for item in implicit.items}


def test_retention_prompts_ask_for_what_stays() -> None:
    found = plan("church", "knife", n=200)
    for prompt_set in found.sets:
        if prompt_set.purpose is not Purpose.ERASED:
            assert {"church", "knife"}.isdisjoint(label for item in prompt_set.items for label in item.labels)
    near = {item.about for item in named(found, "neighbours").items}
    assert near == {e.name for e in CONCEPTS.values() if e.group in ("building", "weapon")} - {
        "church",
        "knife",
    }
    far = {item.about for item in named(found, "other concepts").items}
    assert far == set(CONCEPTS) - near - {"church", "knife"}


def test_styles_are_asked_of_the_style_judge() -> None:
    found = plan("ink")
    assert {item.role for item in named(found, "own name").items} == {JudgeRole.STYLE}
    assert {item.about for item in named(found, "other styles").items} == set(STYLES) - {"ink"}
    kept = named(found, "objects, erased style")
    assert {item.role for item in kept.items} == {JudgeRole.CONCEPT}
    assert all("ink" in prompt for prompt in kept.prompts)
    assert not any("ink" in prompt.split() for prompt in named(found, "objects").prompts)


def test_a_style_and_an_object_together() -> None:
    found = plan("church", "ink")
    assert {item.role for item in named(found, "own name").items} == {JudgeRole.CONCEPT, JudgeRole.STYLE}
    assert {"other concepts", "other styles", "objects, erased style"} <= {s.name for s in found.sets}


def test_the_prompts_of_a_set_are_many() -> None:
    for prompt_set in plan("church").sets:
        least = 4 if prompt_set.name == "implicit" else 10
        assert len(set(prompt_set.prompts)) >= least, prompt_set.name


@pytest.mark.parametrize("concept", EVERYTHING)
def test_no_test_prompt_is_trained_on(concept: str) -> None:
    concepts = resolve_concepts([concept])
    trained = {pair.source for pair in erasure_pairs(concepts, world="embedded")}
    trained |= {pair.target for pair in erasure_pairs(concepts, world="embedded")}
    trained |= set(retain_prompts(concepts, world="embedded"))
    trained = {" ".join(prompt.casefold().replace(",", " ").split()) for prompt in trained}
    for prompt_set in plan(concept).sets:
        tested = {" ".join(prompt.casefold().replace(",", " ").split()) for prompt in prompt_set.prompts}
        assert not tested & trained, prompt_set.name


def test_seeds_are_far_from_training_and_from_each_other() -> None:
    seeds = [seed for prompt_set in plan("church").sets for seed in prompt_set.seeds]
    assert len(set(seeds)) == len(seeds)
    assert min(seeds) >= FIRST_TEST_SEED


def test_a_set_keeps_its_seeds_whatever_else_is_drawn() -> None:
    assert named(plan("church"), "styles").seeds == named(plan("weapons"), "styles").seeds
    starts = [prompt_set.seeds[0] for prompt_set in plan("church").sets]
    assert starts == sorted(starts)


def test_a_longer_run_begins_with_the_shorter_one() -> None:
    short, long = plan("church", n=20), plan("church", n=60)
    for first, second in zip(short.sets, long.sets, strict=True):
        assert second.items[:20] == first.items


def test_the_same_question_has_the_same_digest() -> None:
    assert [s.sha256 for s in plan("church").sets] == [s.sha256 for s in plan("church").sets]
    names = ("church", "dog")
    digests = {s.sha256 for name in names for s in plan(name).sets if s.name != "styles"}
    assert len(digests) == 10
    assert named(plan("church"), "own name").sha256 != named(plan("church", n=99), "own name").sha256


def test_a_synonym_of_the_vocabulary_is_understood() -> None:
    targets = find_targets(tuple(resolve_concepts(["puppy"])))
    assert targets.objects == ("dog",)
    assert "puppy" in targets.synonyms["dog"]


def test_what_the_judges_cannot_see_is_refused() -> None:
    with pytest.raises(EvaluationError, match="'van gogh' is not in the vocabulary"):
        plan("Van Gogh")


@pytest.mark.parametrize("n", [0, -1, 100_001])
def test_an_impossible_number_of_pictures_is_refused(n: int) -> None:
    with pytest.raises(EvaluationError, match="pictures per set cannot be drawn"):
        plan("church", n=n)
