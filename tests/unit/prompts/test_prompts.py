"""Wordings, pairs and retain sets."""

from __future__ import annotations

import pytest

from diffusers_erasure.concepts import ConceptKind, resolve_concepts
from diffusers_erasure.embedded.vocabulary import CONCEPTS, STYLES
from diffusers_erasure.prompts import World, erasure_pairs, fill, phrase, retain_prompts, templates, world_of
from diffusers_erasure.prompts.retain import word_pattern

KINDS = tuple(ConceptKind)
WORLDS: tuple[World, ...] = ("embedded", "general")


@pytest.mark.parametrize("kind", KINDS)
def test_training_and_testing_share_no_wording(kind: ConceptKind) -> None:
    train = set(templates(kind, "train", world="general"))
    test = set(templates(kind, "test", world="general"))
    assert train
    assert test
    assert not train & test


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("world", WORLDS)
def test_every_template_takes_the_concept_once(kind: ConceptKind, world: World) -> None:
    for split in ("train", "test"):
        found = templates(kind, split, world=world)  # type: ignore[arg-type]
        assert len(set(found)) == len(found)
        for template in found:
            assert template.count("{}") == 1
            assert template.count("{subject}") == (kind is ConceptKind.style)
            assert "zebra" in fill(template, "zebra", kind=kind, subject="a pot")


def test_the_general_world_has_more_wordings() -> None:
    assert set(templates("object")) < set(templates("object", world="general"))


@pytest.mark.parametrize(
    ("base", "world"),
    [
        ("embedded", "embedded"),
        ("CompVis/stable-diffusion-v1-4", "general"),
        ("somebody/embedded", "general"),
        ("", "general"),
    ],
)
def test_only_the_embedded_pipeline_speaks_its_own_words(base: str, world: World) -> None:
    assert world_of(base) == world


@pytest.mark.parametrize(
    ("word", "kind", "expected"),
    [
        ("church", ConceptKind.object, "a church"),
        ("owl", ConceptKind.object, "an owl"),
        ("scissors", ConceptKind.object, "scissors"),
        ("Van Gogh", ConceptKind.object, "Van Gogh"),
        ("santa claus", ConceptKind.identity, "santa claus"),
        ("ink", ConceptKind.style, "ink"),
        ("weapons", ConceptKind.theme, "weapons"),
        ("weapon", ConceptKind.theme, "a weapon"),
        ("food", ConceptKind.theme, "food"),
        ("the thing that barks", ConceptKind.object, "the thing that barks"),
        ("an old friend", ConceptKind.object, "an old friend"),
        ("theatre", ConceptKind.object, "a theatre"),
        ("", ConceptKind.object, ""),
    ],
)
def test_words_stand_as_in_a_sentence(word: str, kind: ConceptKind, expected: str) -> None:
    assert phrase(word, kind) == expected


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("name", ["dog", "santa claus", "ink", "weapons", "quokka"])
def test_pairs_name_the_concept_and_then_do_not(name: str, world: World) -> None:
    concepts = resolve_concepts([name])
    pairs = erasure_pairs(concepts, world=world)
    says_erased = word_pattern(concepts.words)
    assert len(set(pairs)) == len(pairs) > 10
    for pair in pairs:
        assert pair.source_word in pair.source
        assert pair.target_word in pair.target
        assert says_erased.search(pair.source)
        assert not says_erased.search(pair.target)


def test_synonyms_and_limits() -> None:
    concepts = resolve_concepts(["dog"])
    words = {pair.source_word for pair in erasure_pairs(concepts)}
    assert words == set(concepts.concepts[0].words)
    assert {pair.source_word for pair in erasure_pairs(concepts, synonyms=False)} == {"dog"}
    assert len(erasure_pairs(concepts, synonyms=False, limit=3)) == 3
    (bare,) = erasure_pairs(concepts, synonyms=False, limit=0)
    assert (bare.source, bare.target) == ("dog", "cat")


def test_an_empty_anchor_leaves_the_prompt_without_the_concept() -> None:
    objects = erasure_pairs(resolve_concepts(["dog"], anchors=[""]))
    assert {pair.target for pair in objects} == {""}
    styles = erasure_pairs(resolve_concepts(["Van Gogh"], kind=ConceptKind.style))
    assert all(pair.target and pair.target in pair.source for pair in styles)


def test_all_styles_of_the_embedded_pipeline_are_in_its_pairs() -> None:
    sources = " ".join(pair.source for pair in erasure_pairs(resolve_concepts(["dog"]), world="embedded"))
    assert all(style in sources for style in STYLES)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("name", ["dog", "ink", "weapons", "santa claus"])
def test_nothing_that_is_erased_is_retained(name: str, world: World) -> None:
    concepts = resolve_concepts([name])
    kept = retain_prompts(concepts, world=world)
    says_erased = word_pattern(concepts.words)
    assert kept[0] == ""
    assert len(set(kept)) == len(kept) > 100
    assert not any(says_erased.search(prompt) for prompt in kept)


def test_every_other_concept_and_style_is_retained() -> None:
    kept = " | ".join(retain_prompts(resolve_concepts(["dog"]), world="embedded"))
    assert all(name in kept for name in CONCEPTS if name != "dog")
    assert all(style in kept for style in STYLES)


def test_a_limit_is_spread_over_the_whole_set() -> None:
    concepts = resolve_concepts(["dog"])
    whole = retain_prompts(concepts)
    few = retain_prompts(concepts, limit=10)
    assert len(few) == 10
    assert few[0] == ""
    assert [whole.index(prompt) for prompt in few] == sorted(whole.index(prompt) for prompt in few)
    assert whole.index(few[-1]) > len(whole) * 0.8
    assert retain_prompts(concepts, limit=1) == ("",)
    assert retain_prompts(concepts, limit=10_000) == whole


def test_plurals_count_as_the_word_and_parts_of_words_do_not() -> None:
    pattern = word_pattern(frozenset({"dog", "hot dog"}))
    assert pattern.search("two Dogs run")
    assert pattern.search("a hot dog")
    assert not pattern.search("a doghouse")
    assert not pattern.search("hotdog stand")
