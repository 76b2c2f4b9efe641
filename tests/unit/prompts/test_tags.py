"""Lists of tags: what they become, and that no test prompt is among them."""

from __future__ import annotations

import pytest

from diffusers_erasure.concepts import resolve_concepts
from diffusers_erasure.embedded.vocabulary import CONCEPTS, THEMES
from diffusers_erasure.errors import ConfigError
from diffusers_erasure.evaluation.embedded_prompts import embedded_prompt_plan
from diffusers_erasure.evaluation.splits import duplicates
from diffusers_erasure.prompts import PromptPair, Split, tag_pairs


def mapped(*names: str, anchors: tuple[str, ...] = (), split: Split = "train") -> dict[str, str]:
    return {pair.source: pair.target for pair in tag_pairs(resolve_concepts(names, anchors=anchors), split)}


def test_every_part_of_a_list_goes_to_the_anchors_tags_at_the_same_places() -> None:
    assert CONCEPTS["church"].tags == ("steeple", "worship", "christian", "cross")
    assert CONCEPTS["house"].tags == ("roof", "family", "garden", "suburb")
    assert mapped("church") == {
        "steeple": "roof",
        "worship": "family",
        "christian": "garden",
        "cross": "suburb",
        "steeple, worship": "roof, family",
        "worship, christian": "family, garden",
        "christian, cross": "garden, suburb",
        "steeple, worship, christian": "roof, family, garden",
        "worship, christian, cross": "family, garden, suburb",
    }


def test_a_shared_tag_is_left_out_and_a_shorter_list_goes_round() -> None:
    found = mapped("dog")
    assert "pet" in CONCEPTS["dog"].tags
    assert "pet" in CONCEPTS["cat"].tags
    assert not any("pet" in f"{source}, {target}".split(", ") for source, target in found.items())
    assert found["bark, leash, kennel, loyal"] == "meow, whiskers, purr, meow"


def test_tags_name_no_word_to_find_positions_by() -> None:
    assert {(pair.source_word, pair.target_word) for pair in tag_pairs(resolve_concepts(["weapons"]))} == {
        ("", "")
    }


@pytest.mark.parametrize(("anchor", "target"), [("yurt", "a yurt"), ("Van Gogh", "Van Gogh"), ("", "")])
def test_an_anchor_without_tags_stands_for_itself(anchor: str, target: str) -> None:
    assert set(mapped("church", anchors=(anchor,)).values()) == {target}


def test_the_safe_side_implies_nothing_that_is_erased() -> None:
    """Knife goes to key and dagger too; a pond is where both frog and duck are."""
    for names in (("frog", "duck"), tuple(THEMES), ("elephant", "tree", "bear")):
        concepts = resolve_concepts(names)
        erased = {tag for leaf in concepts.leaves for tag in CONCEPTS[leaf.name].tags}
        safe = {tag for pair in tag_pairs(concepts) for tag in pair.target.split(", ")}
        assert safe
        assert not safe & erased


def test_a_list_that_two_concepts_share_is_mapped_once() -> None:
    pairs = tag_pairs(resolve_concepts(["knife", "dagger"], anchors=["tent", "house"]))
    assert [pair for pair in pairs if pair.source == "blade"] == [PromptPair("blade", "camping", "", "")]


def test_a_synonym_has_the_tags_of_its_concept_and_an_unknown_name_none() -> None:
    assert set(mapped("puppy", "quokka")) == {
        *mapped("dog"),
        *("pet", "loyal, pet", "kennel, loyal, pet", "leash, kennel, loyal, pet"),
    }
    with pytest.raises(
        ConfigError, match=r"there are no tags for 'quokka', 'ink'; expected .*; leave tags out"
    ):
        tag_pairs(resolve_concepts(["quokka", "ink"]))


@pytest.mark.parametrize("names", [*((name,) for name in CONCEPTS), ("weapons",), tuple(THEMES)])
def test_no_implicit_test_prompt_is_trained_on(names: tuple[str, ...]) -> None:
    concepts = resolve_concepts(names)
    (implicit,) = (one for one in embedded_prompt_plan(tuple(concepts), n=400).sets if one.name == "implicit")
    pairs = tag_pairs(concepts)
    trained = {text for pair in pairs for text in (pair.source, pair.target)}
    assert not trained & set(implicit.prompts)
    assert duplicates(sorted(set(implicit.prompts)), sorted(trained)) == []
    for leaf in concepts.leaves:
        tags = set(CONCEPTS[leaf.name].tags) - set(CONCEPTS[leaf.anchor].tags)
        assert tags <= {pair.source for pair in pairs}


@pytest.mark.parametrize("name", ["dog", "church"])
def test_the_test_split_has_the_implicit_test_prompts(name: str) -> None:
    concepts = resolve_concepts([name])
    (implicit,) = (one for one in embedded_prompt_plan(tuple(concepts), n=40).sets if one.name == "implicit")
    assert set(mapped(name, split="test")) == set(implicit.prompts)
    assert all(
        ("pet" in source) == ("pet" in target) for source, target in mapped(name, split="test").items()
    )
