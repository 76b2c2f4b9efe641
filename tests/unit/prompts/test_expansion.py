"""More ways to mean a concept: their order, and what an expander may say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from diffusers_erasure.concepts import Concept, ConceptKind, ConceptSet, resolve_concepts
from diffusers_erasure.errors import ConfigError
from diffusers_erasure.prompts import (
    PromptPair,
    World,
    erasure_pairs,
    expanded_pairs,
    read_pairs,
    tag_pairs,
    templates,
)

DOG = resolve_concepts(["dog"])
WORLDS: tuple[World, ...] = ("embedded", "general")


def slang(concepts: ConceptSet) -> Mapping[str, Sequence[str]]:
    return {concept.name: ["best  friend", "the barking one", "best friend"] for concept in concepts.leaves}


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("synonyms", [False, True])
def test_without_more_it_is_the_pairs_of_words(world: World, synonyms: bool) -> None:
    plain = erasure_pairs(DOG, world=world, synonyms=synonyms, limit=3)
    assert expanded_pairs(DOG, world=world, synonyms=synonyms, limit=3) == plain


def test_the_sources_follow_each_other_and_repeat_nothing(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("malicious,safe,word,safe_word\nbark,meow,,\na dog,a cat,dog,cat\nwoof,,,\n", "utf-8")
    found = expanded_pairs(
        DOG,
        world="general",
        tags=True,
        limit=2,
        pairs_file=str(path),
        expander=lambda _: {"Dog": ["fido", "puppy"]},
    )
    assert len(set(found)) == len(found)
    assert found == (
        *erasure_pairs(DOG, limit=2),
        *tag_pairs(DOG),
        read_pairs(path)[2],
        PromptPair("a fido", "a cat", "fido", "cat"),
        PromptPair("a picture of a fido", "a picture of a cat", "fido", "cat"),
    )


@pytest.mark.parametrize("world", WORLDS)
def test_an_expanders_words_stand_where_synonyms_do(world: World) -> None:
    known = ConceptSet(
        concepts=(Concept(name="dog", anchor="cat", synonyms=("best friend", "the barking one")),)
    )
    bare = ConceptSet(concepts=(Concept(name="dog", anchor="cat"),))
    assert expanded_pairs(bare, world=world, expander=slang) == erasure_pairs(known, world=world)
    sources = {pair.source for pair in expanded_pairs(bare, world=world, expander=slang)}
    assert {"a best friend", "a photo of the barking one"} <= sources


def test_an_expander_is_asked_once_and_members_may_have_words() -> None:
    asked: list[ConceptSet] = []

    def ask(concepts: ConceptSet) -> Mapping[str, Sequence[str]]:
        asked.append(concepts)
        return {"weapons": ["arms"], "bomb": ("big bang",), "knife": []}

    weapons = resolve_concepts(["weapons"])
    found = expanded_pairs(weapons, world="general", expander=ask, limit=1)
    assert asked == [weapons]
    assert found[-2:] == (
        PromptPair("arms", "a tool", "arms", "tool"),
        PromptPair("a big bang", "a light bulb", "big bang", "light bulb"),
    )


def test_a_concept_that_is_there_twice_has_its_words_twice() -> None:
    twice = ConceptSet(
        concepts=(
            Concept(name="bomb", anchor="drum"),
            Concept(
                name="weapons", kind=ConceptKind.theme, members=(Concept(name="bomb", anchor="light bulb"),)
            ),
        )
    )
    found = expanded_pairs(twice, world="general", limit=0, expander=lambda _: {"bomb": ["big bang"]})
    assert [pair.target for pair in found if pair.source == "big bang"] == ["drum", "light bulb"]


def test_styles_get_words_in_the_wordings_of_styles() -> None:
    ink = resolve_concepts(["ink"])
    found = expanded_pairs(ink, world="embedded", limit=1, expander=lambda _: {"ink": ["sumi"]})
    (wording,) = templates("style")[:1]
    assert PromptPair(
        wording.format("sumi", subject="a dog"), wording.format("noto", subject="a dog"), "sumi", "noto"
    ) in found  # fmt: skip


def test_an_expander_is_taken_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "def ask(concepts):\n    return {name: ['fido'] for name in concepts.names}\n"
    (tmp_path / "words_of_a_user.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = expanded_pairs(DOG, world="general", synonyms=False, limit=0, expander="words_of_a_user:ask")
    assert [pair.source for pair in found] == ["dog", "fido"]
    with pytest.raises(
        ConfigError, match=r"the expander 'words_of_a_user:tell' does not exist in its module"
    ):
        expanded_pairs(DOG, world="general", expander="words_of_a_user:tell")
    with pytest.raises(ConfigError, match=r"the expander 'words' is no name .* leave it empty for none"):
        expanded_pairs(DOG, world="general", expander="words")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (None, "gave a value of type 'NoneType'; expected lists of words by the names"),
        (["fido"], "gave a value of type 'list'"),
        ({"wolf": ["fido"]}, "gave words for 'wolf', which is not erased; expected names among 'dog'"),
        ({3: ["fido"]}, "gave words for 3, which is not erased"),
        ({"dog": "fido"}, "gave 'fido' for 'dog'; expected a list"),
        ({"dog": None}, "gave None for 'dog'; expected a list"),
        ({"dog": {"fido"}}, r"gave \{'fido'\} for 'dog'; expected a list"),
        ({"dog": ["fido", " "]}, "gave ' ' among its words for 'dog'"),
        ({"dog": [7]}, "gave 7 among its words for 'dog'"),
        ({"dog": ["Cat "]}, "gave 'Cat ' as a word for 'dog', which is mapped to it"),
    ],
)
def test_an_expander_that_answers_wrongly_is_refused(answer: object, message: str) -> None:
    def mine(concepts: ConceptSet) -> object:
        return answer

    with pytest.raises(ConfigError, match=rf"the expander .*mine.*{message}"):
        expanded_pairs(DOG, world="general", expander=mine)  # type: ignore[arg-type]


def test_tags_that_nobody_has_are_refused() -> None:
    with pytest.raises(ConfigError, match="there are no tags for 'quokka'"):
        expanded_pairs(resolve_concepts(["quokka"]), world="general", tags=True)
