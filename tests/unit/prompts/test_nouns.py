"""Our own lists of nouns, and how they stand in a sentence."""

from __future__ import annotations

from collections import Counter

import pytest

from diffusers_erasure.concepts import resolve_concepts
from diffusers_erasure.prompts import phrase, select_retain_prompts
from diffusers_erasure.prompts.nouns import nouns
from diffusers_erasure.prompts.retain_rules import word_forms

# Which nouns stand without an article, and where the sound differs from the letter, written down by hand.
PLURALS = {
    "blueberries", "French fries", "bagpipes", "binoculars", "chopsticks", "dice", "grapes", "headphones",
    "maracas", "pliers", "scissors", "skis", "sunglasses",
}  # fmt: skip
MASS = {
    "asparagus", "bamboo", "bread", "broccoli", "cheese", "coffee", "garlic", "ice cream", "lasagna",
    "lavender", "lemonade", "milk", "moss", "popcorn", "rice", "soup", "sushi", "toothpaste", "wheat",
}  # fmt: skip
SILENT_H = {"hourglass"}
SPOKEN_YOU = {"ukulele", "unicycle"}


def test_plurals_and_mass_nouns_stand_bare() -> None:
    assert {noun.noun for noun in nouns() if not noun.article} == PLURALS | MASS


def test_articles_follow_the_sound() -> None:
    for noun in nouns():
        vowel = noun.noun[0].lower() in "aeiou" or noun.noun in SILENT_H
        expected = "an" if vowel and noun.noun not in SPOKEN_YOU else "a"
        assert noun.article in ("", expected), noun.noun


@pytest.mark.parametrize(
    ("noun", "expected"),
    [
        ("chair", "a chair"),
        ("umbrella", "an umbrella"),
        ("hourglass", "an hourglass"),
        ("unicycle", "a unicycle"),
        ("ukulele", "a ukulele"),
        ("scissors", "scissors"),
        ("bread", "bread"),
        ("ice cream", "ice cream"),
        ("Siamese cat", "a Siamese cat"),
        ("French horn", "a French horn"),
        ("French fries", "French fries"),
        ("apple pie", "an apple pie"),
    ],
)
def test_nouns_read_right(noun: str, expected: str) -> None:
    (entry,) = [entry for entry in nouns() if entry.noun == noun]
    assert entry.phrase == expected


def test_nouns_read_as_concepts_do() -> None:
    """What is taught and what is retained agree on the article, wherever `phrase` can know it."""
    irregular = SILENT_H | {entry.noun for entry in nouns() if not entry.article or entry.noun[0].isupper()}
    differing = {entry.noun for entry in nouns() if phrase(entry.noun) != entry.phrase}
    assert differing <= irregular


def test_each_noun_is_there_once() -> None:
    counts = Counter(form for entry in nouns() for form in word_forms(entry.noun))
    assert not [form for form, count in counts.items() if count > 1]
    assert all(entry.noun == entry.noun.strip() and entry.noun for entry in nouns())


def test_both_lists_are_large_and_of_many_kinds() -> None:
    lists = Counter(entry.list for entry in nouns())
    assert set(lists) == {"objects", "classes"}
    assert min(lists.values()) >= 240
    for name in lists:
        assert len({entry.group for entry in nouns() if entry.list == name}) >= 10


@pytest.mark.parametrize("source", ["objects", "classes"])
@pytest.mark.parametrize("theme", ["nudity", "weapons", "violence", "person", "drugs"])
def test_the_lists_suit_the_themes_that_people_erase(theme: str, source: str) -> None:
    selection = select_retain_prompts(resolve_concepts([theme]), source=source)
    assert selection.dropped == ()
