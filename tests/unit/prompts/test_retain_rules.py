"""The rules that leave prompts out of a retain set."""

from __future__ import annotations

import csv
from collections import Counter
from importlib.resources import files
from pathlib import Path

import pytest

from diffusers_erasure.concepts import ConceptSet, resolve_concepts
from diffusers_erasure.errors import ConfigError
from diffusers_erasure.prompts import KeywordRule, load_rule, related_words
from diffusers_erasure.prompts.retain_rules import ask_rule, spoken, word_forms

PROMPTS = (
    "a photo of a church",
    "a photo of two Churches",
    "a photo of a cathedral",
    "a photo of a steeple",
    "a photo of a mosque",
    "a photo of a churchyard",
)


def left_out(rule: KeywordRule, *names: str, prompts: tuple[str, ...] = PROMPTS) -> set[str]:
    reasons = rule(prompts, resolve_concepts(names))
    assert len(reasons) == len(prompts)
    return {prompt for prompt, reason in zip(prompts, reasons, strict=True) if reason is not None}


def test_the_rule_finds_the_concept_its_synonyms_and_related_words() -> None:
    assert left_out(KeywordRule(), "church") == set(PROMPTS[:4])
    assert left_out(KeywordRule(related=False), "church") == set(PROMPTS[:3])
    assert left_out(KeywordRule(), "ink") == set()


def test_reasons_name_the_word_and_what_it_is_related_to() -> None:
    reasons = KeywordRule()(PROMPTS, resolve_concepts(["church"]))
    assert reasons[0] == "says 'church', which is erased"
    assert reasons[3] == "says 'steeple', related to 'church', which is erased"
    assert reasons[4] is None


def test_several_concepts_leave_out_what_each_does() -> None:
    prompts = (*PROMPTS, "a photo of a poodle", "a photo of a rifle", "a photo of a chair")
    together = left_out(KeywordRule(), "church", "dog", "weapons", prompts=prompts)
    apart = [left_out(KeywordRule(), name, prompts=prompts) for name in ("church", "dog", "weapons")]
    assert together == set().union(*apart)
    assert [len(one) for one in apart] == [4, 1, 1]


def test_a_word_of_the_same_thing_counts_both_ways_a_kind_or_part_only_one() -> None:
    prompts = ("a photo of a chapel", "a photo of a church", "a photo of a pulpit")
    assert left_out(KeywordRule(), "chapel", prompts=prompts) == set(prompts)
    assert left_out(KeywordRule(), "pulpit", prompts=prompts) == {prompts[2]}


def test_a_concept_that_names_a_group_leaves_out_the_group() -> None:
    prompts = ("a photo of a giraffe", "a photo of a teapot")
    assert left_out(KeywordRule(), "animals", prompts=prompts) == {prompts[0]}
    assert left_out(KeywordRule(), "kitchenware", prompts=prompts) == {prompts[1]}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("church", "churches"),
        ("puppy", "puppies"),
        ("knife", "knives"),
        ("leaf", "leaves"),
        ("fox", "foxes"),
        ("dog", "dogs"),
        ("goose", "geese"),
        ("police officer", "police officers"),
        ("fire woman", "fire women"),
        ("Van Gogh", "Van Goghs"),
    ],
)
def test_singular_and_plural_find_each_other(one: str, other: str) -> None:
    assert spoken([f"the {other}!"], {one: "why"}) == ("why",)
    assert spoken([f"the {one}!"], {other: "why"}) == ("why",)


@pytest.mark.parametrize(
    ("word", "prompt"), [("cat", "a catalogue"), ("glass", "a gla"), ("dress", "a dres"), ("ant", "a plant")]
)
def test_parts_of_words_do_not_count(word: str, prompt: str) -> None:
    assert spoken([prompt], {word: "why"}) == (None,)
    assert word.casefold() in word_forms(word)


def test_the_table_of_related_words_is_tidy() -> None:
    text = files("diffusers_erasure.prompts").joinpath("related.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    heads = Counter(word for row in rows for word in row["words"].split("|"))
    assert [word for word, count in heads.items() if count > 1] == []
    for row in rows:
        words = [*row["words"].split("|"), *filter(None, row["related"].split("|"))]
        assert len(set(words)) == len(words), row["words"]
        assert all(word and word == " ".join(word.split()) for word in words), row["words"]
    assert len(rows) > 100


def test_related_words_hold_none_of_the_concepts_own() -> None:
    concepts = resolve_concepts(["church", "dogs"])
    related = related_words(concepts)
    assert related["steeple"] == "church"
    assert related["poodle"] == "dogs"
    assert not {"church", "chapel", "dog"} & set(related)
    assert related_words(resolve_concepts(["quokka"])) == {}


def write_module(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> None:
    (folder / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))


def test_a_rule_is_loaded_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "def short(prompts, concepts):\n    return ['long' if len(p) > 19 else None for p in prompts]\n"
    write_module(tmp_path, monkeypatch, "rules_of_a_user", text)
    rule = load_rule("rules_of_a_user:short")
    assert ask_rule(rule, PROMPTS, resolve_concepts(["dog"]))[0] is None
    assert ask_rule(rule, PROMPTS, resolve_concepts(["dog"]))[1] == "long"
    assert load_rule("") == KeywordRule()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rules_for_errors", "no name of a function; expected 'package.module:function'"),
        ("rules_for_errors:", "no name of a function"),
        (":keep", "no name of a function"),
        ("rules_for_errors:keep:twice", "no name of a function"),
        ("..rules_for_errors:keep", "no name of a function"),
        ("no_such_rules:keep", "module 'no_such_rules' .* cannot be imported .*PYTHONPATH"),
        ("rules_that_need_more:keep", "cannot be imported .*no_such_package"),
        ("rules_for_errors:missing", "does not exist in its module"),
        ("rules_for_errors:NUMBER", "is of type 'int'; expected a function"),
        ("rules_for_errors:Rule", "is of type 'type'; expected a function"),
    ],
)
def test_a_name_that_is_no_rule_is_refused(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_module(tmp_path, monkeypatch, "rules_for_errors", "NUMBER = 3\nclass Rule:\n    pass\n")
    write_module(tmp_path, monkeypatch, "rules_that_need_more", "import no_such_package\n")
    with pytest.raises(ConfigError, match=message):
        load_rule(name)


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([None] * 5, "gave 5 answers for 6 prompts"),
        ([None] * 7, "gave 7 answers for 6 prompts"),
        (None, "gave a value of type 'NoneType'"),
        ("abcdef", "gave a value of type 'str' for 6 prompts"),
        ({0, 1, 2, 3, 4, 5}, "gave a value of type 'set'"),
        ([True] * 6, "answered True for 'a photo of a church'; expected the reason"),
        ([None, None, " ", None, None, None], "answered ' ' for 'a photo of a cathedral'"),
    ],
)
def test_a_rule_that_answers_wrongly_is_refused(answers: object, message: str) -> None:
    def mine(prompts: tuple[str, ...], concepts: ConceptSet) -> object:
        return answers

    with pytest.raises(ConfigError, match=rf"mine.*{message}"):
        ask_rule(mine, PROMPTS, resolve_concepts(["dog"]))  # type: ignore[arg-type]
