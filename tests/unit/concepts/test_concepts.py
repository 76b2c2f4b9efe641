"""From typed names to concepts."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pydantic import ValidationError

from diffusers_erasure.concepts import Concept, ConceptKind, ConceptSet, resolve_concepts
from diffusers_erasure.embedded.vocabulary import CONCEPTS, STYLES, THEMES
from diffusers_erasure.errors import ConfigError


def test_a_known_name_gets_synonyms_and_anchor() -> None:
    (dog,) = resolve_concepts([" Dog "])
    assert dog == Concept(
        name="dog", synonyms=CONCEPTS["dog"].synonyms, anchor=CONCEPTS["dog"].anchor, kind=ConceptKind.object
    )
    assert dog.words == ("dog", *CONCEPTS["dog"].synonyms)


def test_an_unknown_name_is_a_plain_concept() -> None:
    (artist,) = resolve_concepts(["Van  Gogh"], kind=ConceptKind.style, anchors=["art"])
    assert artist == Concept(name="Van Gogh", kind=ConceptKind.style, anchor="art")
    (plain,) = resolve_concepts("quokka")
    assert plain == Concept(name="quokka")


def test_a_style_is_mapped_to_another_style_that_stays() -> None:
    styles = resolve_concepts(["noto", "ink"])
    assert {style.kind for style in styles} == {ConceptKind.style}
    assert {style.anchor for style in styles} == {"fluent"}
    assert all(style.anchor == "" for style in resolve_concepts(STYLES))


def test_a_theme_opens_into_its_members() -> None:
    concepts = resolve_concepts(["weapons"])
    (theme,) = concepts
    assert theme.kind is ConceptKind.theme
    assert tuple(leaf.name for leaf in concepts.leaves) == THEMES["weapons"]
    assert {"weapons", "weapon", "bomb", "gun"} <= concepts.words
    assert concepts.names == ("weapons",)
    assert len(concepts) == 1


def test_a_member_named_beside_its_theme_is_one_leaf() -> None:
    leaves = resolve_concepts(["bomb", "weapons"]).leaves
    assert [leaf.name for leaf in leaves].count("bomb") == 1


@pytest.mark.parametrize(
    "names", [["dog", "cat"], ["car", "bus", "train"], ["weapons", "hammer", "key"], list(CONCEPTS)]
)
def test_no_anchor_is_itself_erased(names: list[str]) -> None:
    concepts = resolve_concepts(names)
    assert not {leaf.anchor for leaf in concepts.leaves} & {leaf.name for leaf in concepts.leaves}


WEAPON_ANCHORS = {
    "bomb": "light bulb",
    "knife": "key",
    "dagger": "key",
    "swords": "scissors",
    "pistol": "hammer",
    "skull": "light bulb",
    "coffin": "tent",
    "cigarette": "key",
    "syringe": "key",
}


def test_weapons_go_to_the_anchors_of_the_table() -> None:
    (weapons,) = resolve_concepts(["weapons"])
    assert {member.name: member.anchor for member in weapons.members} == WEAPON_ANCHORS
    assert weapons.anchor == "tool"


@pytest.mark.parametrize("theme", [theme for theme in THEMES if theme != "weapons"])
def test_a_theme_that_is_a_whole_group_goes_to_the_first_concept_that_stays(theme: str) -> None:
    (found,) = resolve_concepts([theme])
    first = next(name for name in CONCEPTS if name not in THEMES[theme])
    assert {member.anchor for member in found.members} == {first}
    assert found.anchor == CONCEPTS[first].group
    assert found.words == (theme, theme.removesuffix("s"))


def test_members_look_for_a_neighbour_of_their_anchor_first() -> None:
    (weapons, _, _) = resolve_concepts(["weapons", "key", "buildings"])
    were_keys = dict.fromkeys(["knife", "dagger", "cigarette", "syringe"], "hammer")
    anchors = {member.name: member.anchor for member in weapons.members}
    assert anchors == {**WEAPON_ANCHORS, **were_keys, "coffin": "dog"}


def test_all_themes_together_map_to_nothing_that_is_erased() -> None:
    concepts = resolve_concepts(THEMES)
    assert len(concepts.leaves) == 50
    for part in (part for concept in concepts for part in concept.walk()):
        assert part.anchor
        assert part.anchor not in concepts.words


def test_a_member_named_beside_its_theme_has_the_same_anchor() -> None:
    dog, animals = resolve_concepts(["dog", "animals"])
    assert dog.anchor == next(member.anchor for member in animals.members if member.name == "dog") == "rose"


def test_a_group_named_one_by_one_keeps_no_neighbour() -> None:
    assert {concept.anchor for concept in resolve_concepts(["guitar", "trumpet"])} == {""}


def test_a_theme_is_not_mapped_to_a_word_that_is_erased() -> None:
    weapons, tool = resolve_concepts(["weapons", "tool"])
    assert weapons.anchor == "building"
    assert tool.anchor == ""


def test_anchors_are_one_for_all_or_one_for_each() -> None:
    assert [c.anchor for c in resolve_concepts(["dog", "church"], anchors=["tree"])] == ["tree", "tree"]
    assert [c.anchor for c in resolve_concepts(["dog", "church"], anchors=["tree", ""])] == ["tree", ""]
    with pytest.raises(ConfigError, match="2 anchors are given for 3 concepts"):
        resolve_concepts(["dog", "church", "car"], anchors=["tree", "sun"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: resolve_concepts([]), "list of concepts is empty"),
        (lambda: resolve_concepts(["dog", " "]), "name is empty"),
        (lambda: resolve_concepts(["dog", "church", "Dog"]), "'dog' is named 2 times"),
        (lambda: ConceptSet(concepts=()), "list of concepts is empty"),
        (lambda: Concept(name=""), "name is empty"),
        (lambda: Concept(name="dog", synonyms=("",)), "synonym is empty"),
        (lambda: Concept(name="dog", kind="beast"), "kind cannot be 'beast'"),
        (lambda: Concept(name="dog", colour="brown"), "colour cannot be 'brown'"),
        (lambda: Concept(name="dog", members=(Concept(name="puppy"),)), "only a theme has members"),
    ],
)
def test_faults_are_config_errors(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_concepts_are_frozen_and_survive_json() -> None:
    concepts = resolve_concepts(["weapons", "ink", "quokka"])
    assert ConceptSet.model_validate_json(concepts.model_dump_json()) == concepts
    with pytest.raises(ValidationError, match="frozen"):
        concepts.concepts[0].name = "tools"  # type: ignore[misc]
