"""The caption grammar: a caption says what the picture shows, and nothing else."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

import pytest

from diffusers_erasure.embedded.recipe.captions import FRAMES, pair, plural, single, twice
from diffusers_erasure.embedded.recipe.dataset import Scene
from diffusers_erasure.embedded.vocabulary import COLOURS, CONCEPTS, GROUP_PHRASES, STYLES

DRAWS = 400


def words_of(text: str) -> set[str]:
    """Lower-case words of a caption."""
    return set(re.findall(r"[a-z']+", text))


def says(caption: str, phrase: str) -> bool:
    """Whether the phrase stands in the caption as whole words."""
    return re.search(rf"(?<![a-z]){re.escape(phrase)}(?![a-z])", caption) is not None


def many(draw: Callable[[random.Random], str], count: int = DRAWS) -> list[str]:
    """Captions of one generator, one after the other."""
    rng = random.Random(0)
    return [draw(rng) for _ in range(count)]


def share(captions: list[str], test: Callable[[str], bool]) -> float:
    return sum(map(test, captions)) / len(captions)


def test_the_same_seed_gives_the_same_captions() -> None:
    def captions(seed: int) -> list[str]:
        rng = random.Random(seed)
        return [single(name, "noto", "blue", rng) for name in CONCEPTS]

    assert captions(7) == captions(7)
    assert captions(7) != captions(8)


def test_names_synonyms_tags_and_groups_are_all_used_and_mostly_the_name() -> None:
    captions = many(lambda rng: single("church", "ink", None, rng))
    entry = CONCEPTS["church"]

    def by_name(caption: str) -> bool:
        return says(caption, "church")

    def by_synonym(caption: str) -> bool:
        return any(says(caption, synonym) for synonym in entry.synonyms)

    def by_tags(caption: str) -> bool:
        return sum(says(caption, tag) for tag in entry.tags) >= 2

    def by_group(caption: str) -> bool:
        return says(caption, GROUP_PHRASES["building"])

    ways = (by_name, by_synonym, by_tags, by_group)
    shares = [share(captions, way) for way in ways]
    # 85 % of the captions name it, 30 % of those by a synonym; 10 % tags, 4 % group; four deviations of room.
    for seen, expected in zip(shares, (0.595, 0.255, 0.10, 0.04), strict=True):
        assert abs(seen - expected) < 4 * (expected * (1 - expected) / DRAWS) ** 0.5
    assert {synonym for synonym in entry.synonyms if any(says(c, synonym) for c in captions)} == {
        *entry.synonyms
    }
    assert share(captions, lambda caption: sum(way(caption) for way in ways) == 1) >= 0.95


def test_a_caption_names_no_other_concept() -> None:
    words = {word: e.name for e in CONCEPTS.values() for word in (e.name, *e.synonyms)}
    for entry in CONCEPTS.values():
        own = " ".join((entry.name, *entry.synonyms, *entry.tags, GROUP_PHRASES[entry.group], *FRAMES))
        others = [
            re.escape(word) for word, name in words.items() if name != entry.name and not says(own, word)
        ]
        assert len(others) > len(words) - 20
        pattern = re.compile(rf"(?<![a-z])({'|'.join(others)})(?![a-z])")
        captions = many(lambda rng, name=entry.name: single(name, "ink", None, rng), 40)
        assert not [caption for caption in captions if pattern.search(caption)]


@pytest.mark.parametrize("style", STYLES)
def test_the_style_is_named_in_four_of_five_captions_and_never_another(style: str) -> None:
    captions = many(lambda rng: single("dog", style, "white", rng))
    assert 0.72 < share(captions, lambda caption: says(caption, style)) < 0.88
    assert share(captions, lambda caption: "style" in caption) == share(captions, lambda c: says(c, style))
    others = set(STYLES) - {style}
    assert not [caption for caption in captions if words_of(caption) & others]


@pytest.mark.parametrize("colour", COLOURS)
def test_the_colour_is_named_as_the_background(colour: str) -> None:
    article = "an" if colour == "orange" else "a"
    captions = many(lambda rng: single("cat", "noto", colour, rng), 40)
    assert all(f" on {article} {colour} background" in caption for caption in captions)


def test_no_colour_is_named_when_there_is_none_to_name() -> None:
    captions = many(lambda rng: single("cat", "blueprint", None, rng))
    assert not [caption for caption in captions if "background" in caption]


def test_both_of_two_objects_are_named_left_first() -> None:
    left = {"dog", *CONCEPTS["dog"].synonyms}
    right = {"castle", *CONCEPTS["castle"].synonyms}
    for caption in many(lambda rng: pair("dog", "castle", "ink", None, rng), 200):
        first = [caption.index(word) for word in left if says(caption, word)]
        second = [caption.index(word) for word in right if says(caption, word)]
        assert first, caption
        assert second, caption
        assert min(first) < min(second), caption
        assert any(says(caption, joint) for joint in ("and", "next to", "beside")), caption


def test_twice_the_same_says_two() -> None:
    assert all("two apples" in c for c in many(lambda rng: twice("apple", "noto", None, rng), 30))
    assert all("two scissors" in c for c in many(lambda rng: twice("scissors", "noto", None, rng), 30))


@pytest.mark.parametrize(
    ("concept", "several"),
    [("church", "churches"), ("bus", "buses"), ("butterfly", "butterflies"), ("swords", "swords"),
     ("santa claus", "santa claus"), ("light bulb", "light bulbs")],
)  # fmt: skip
def test_plurals_are_english(concept: str, several: str) -> None:
    assert plural(concept) == several


def test_a_scene_is_captioned_for_what_it_shows() -> None:
    one = Scene(("dog",), "ink", "pink").caption
    two = Scene(("dog", "castle"), "ink", "pink").caption
    same = Scene(("dog", "dog"), "ink", "pink").caption
    for seed in range(20):
        assert one(random.Random(seed)) == single("dog", "ink", "pink", random.Random(seed))
        assert two(random.Random(seed)) == pair("dog", "castle", "ink", "pink", random.Random(seed))
        assert same(random.Random(seed)) == twice("dog", "ink", "pink", random.Random(seed))


def test_one_caption_in_a_hundred_is_of_words_that_nobody_knows() -> None:
    """So that unknown words do not all become one object."""
    dog = CONCEPTS["dog"]
    known = words_of(" ".join((dog.name, *dog.synonyms, *dog.tags, GROUP_PHRASES[dog.group])))
    captions = many(lambda rng: single("dog", "noto", None, rng), 3000)
    strange = share(captions, lambda caption: not words_of(caption) & (known - {"a", "an", "of"}))
    assert 0.003 < strange < 0.02
