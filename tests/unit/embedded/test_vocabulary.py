"""The table of concepts: whatever is drawn, judged, erased and measured offline leans on it."""

from __future__ import annotations

from collections import Counter

import pytest

from diffusers_erasure.embedded.vocabulary import (
    COLOURS,
    CONCEPTS,
    GROUP_PHRASES,
    GROUPS,
    STYLES,
    THEMES,
    with_article,
)

ENTRIES = tuple(CONCEPTS.values())


def test_there_are_enough_concepts_and_no_name_stands_twice() -> None:
    assert len(CONCEPTS) >= 60
    assert all(name == entry.name for name, entry in CONCEPTS.items())
    synonyms = Counter(synonym for entry in ENTRIES for synonym in entry.synonyms)
    assert not [synonym for synonym, count in synonyms.items() if count > 1 or synonym in CONCEPTS]


def test_no_drawing_stands_for_two_concepts() -> None:
    codes = Counter(code for entry in ENTRIES for code in entry.hexcodes)
    assert max(codes.values()) == 1
    assert all(0x2000 < int(code, 16) < 0x20000 for code in codes)


def test_the_row_is_complete() -> None:
    for entry in ENTRIES:
        assert entry.group in GROUPS, entry.name
        assert len(entry.synonyms) >= 2, entry.name
        assert len(entry.tags) >= 3, entry.name
        words = (entry.name, entry.anchor, *entry.synonyms, *entry.tags)
        assert all(word and word == word.strip().lower() for word in words), entry.name


def test_the_anchor_is_another_concept() -> None:
    for entry in ENTRIES:
        assert entry.anchor in CONCEPTS, entry.name
        assert entry.anchor != entry.name, entry.name


def test_no_anchor_is_a_weapon() -> None:
    """Erasing a theme must not map it back into the theme, and erasing a key must not draw a knife."""
    for entry in ENTRIES:
        assert CONCEPTS[entry.anchor].group != "weapon", entry.name


def test_tags_imply_the_concept_without_naming_it() -> None:
    for entry in ENTRIES:
        named = {entry.name, *entry.synonyms}
        for tag in entry.tags:
            assert tag not in named, entry.name
            assert entry.name not in tag, entry.name
            assert not set(entry.name.split()) <= set(tag.split()), entry.name


def test_tags_name_no_other_concept() -> None:
    for entry in ENTRIES:
        names = {name for other in ENTRIES if other is not entry for name in (other.name, *other.synonyms)}
        assert not set(entry.tags) & names, entry.name


def test_the_groups_that_the_benchmark_needs_have_neighbours() -> None:
    sizes = Counter(entry.group for entry in ENTRIES)
    assert set(sizes) == set(GROUPS)
    assert min(sizes.values()) >= 2
    for group, least in {"animal": 10, "food": 5, "vehicle": 5, "building": 4, "weapon": 9}.items():
        assert sizes[group] >= least, group
    assert CONCEPTS["church"].group == "building"
    assert CONCEPTS["santa claus"].group == "person"


def test_every_theme_is_a_whole_group() -> None:
    assert next(iter(THEMES)) == "weapons"
    assert {"bomb", "knife", "pistol", "skull", "cigarette", "syringe"} <= set(THEMES["weapons"])
    for theme, members in THEMES.items():
        assert theme.endswith("s")
        assert theme not in CONCEPTS
        assert members == tuple(e.name for e in ENTRIES if e.group == theme.removesuffix("s")) != ()


def test_seven_themes_leave_something_to_map_to() -> None:
    assert len(THEMES) == 7
    members = [name for names in THEMES.values() for name in names]
    assert len(members) == len(set(members)) == 50
    assert {CONCEPTS[name].group for name in set(CONCEPTS) - set(members)} == {
        "tool",
        "person",
        "sky",
        "thing",
    }


def test_styles_and_colours_cannot_be_taken_for_concepts() -> None:
    words = {word for entry in ENTRIES for word in (entry.name, *entry.synonyms)}
    assert len(set(STYLES)) == len(STYLES) == 7
    assert not words & ({*STYLES} | {*COLOURS})
    assert len(set(COLOURS.values())) == len(COLOURS)
    assert all(0 <= level <= 255 for colour in COLOURS.values() for level in colour)


def test_the_tables_cannot_be_changed_by_accident() -> None:
    for table in (CONCEPTS, COLOURS, GROUP_PHRASES, THEMES):
        with pytest.raises(TypeError, match="item assignment"):
            table["gnome"] = None  # type: ignore[index]


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("church", "a church"),
        ("owl", "an owl"),
        ("apple", "an apple"),
        ("ice cream", "an ice cream"),
        ("emperor penguin", "an emperor penguin"),
        ("umbrella", "an umbrella"),
        ("ukulele", "a ukulele"),
        ("scissors", "scissors"),
        ("food", "food"),
        ("santa claus", "santa claus"),
    ],
)
def test_articles(name: str, named: str) -> None:
    assert with_article(name) == named
