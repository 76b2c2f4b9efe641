"""Retain sets by name or file, and what is left out of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from diffusers_erasure.concepts import ConceptSet, resolve_concepts
from diffusers_erasure.embedded.vocabulary import STYLES
from diffusers_erasure.errors import ConfigError
from diffusers_erasure.prompts import (
    RETAIN_SETS,
    World,
    retain_prompts,
    retain_set_prompts,
    select_retain_prompts,
)

DOG = resolve_concepts(["dog"])
WORLDS: tuple[World, ...] = ("embedded", "general")


def test_nothing_is_lost_between_kept_and_dropped() -> None:
    for source in RETAIN_SETS:
        whole = retain_set_prompts(source)
        selection = select_retain_prompts(resolve_concepts(["dog", "church", "boat"]), source=source)
        dropped = {one.prompt for one in selection.dropped}
        assert selection.source == source
        assert dropped
        assert selection.prompts == tuple(prompt for prompt in whole if prompt not in dropped)
        assert all(one.reason for one in selection.dropped)


def test_objects_and_classes_are_photos_of_different_things() -> None:
    objects, classes = retain_set_prompts("objects"), retain_set_prompts("classes")
    assert not set(objects) & set(classes)
    assert all(prompt.startswith("a photo of ") for prompt in (*objects, *classes))
    assert {"a photo of a chair", "a photo of scissors", "a photo of bread"} <= set(objects)
    assert "a photo of a golden retriever" in classes
    assert select_retain_prompts(DOG).source == "objects"


def test_training_and_testing_share_no_prompt() -> None:
    for source in ("objects", "classes", "styles"):
        train, test = (retain_set_prompts(source, split=split) for split in ("train", "test"))
        assert len(train) == len(test)
        assert not set(train) & set(test)


@pytest.mark.parametrize("source", [name for name in RETAIN_SETS if name != "styles"])
def test_the_embedded_pipeline_keeps_its_own_words(source: str) -> None:
    selection = select_retain_prompts(DOG, world="embedded", source=source)
    assert selection.prompts == retain_prompts(DOG, world="embedded")[1:]
    assert {"a picture of a cat", "a drawing of a cat", "a photo of a cat", "a cat"} & set(selection.prompts)


def test_related_words_are_for_the_general_world() -> None:
    bird = resolve_concepts(["bird"])
    assert "an owl" in select_retain_prompts(bird, world="embedded").prompts
    assert "a photo of a barn owl" not in select_retain_prompts(bird, source="classes").prompts


def test_the_empty_prompt_is_the_callers_choice() -> None:
    without = select_retain_prompts(DOG).prompts
    assert "" not in without
    assert select_retain_prompts(DOG, with_empty=True).prompts == ("", *without)
    assert select_retain_prompts(DOG, with_empty=True, limit=1).prompts == ("",)


@pytest.mark.parametrize("with_empty", [False, True])
@pytest.mark.parametrize("limit", [1, 2, 20, 100, 10_000])
def test_a_limit_keeps_the_order_and_spreads(limit: int, with_empty: bool) -> None:
    whole = select_retain_prompts(DOG, with_empty=with_empty).prompts
    few = select_retain_prompts(DOG, with_empty=with_empty, limit=limit).prompts
    places = [whole.index(prompt) for prompt in few]
    assert len(few) == min(limit, len(whole))
    assert places == sorted(places)
    if limit >= 20:
        gaps = [after - before for before, after in zip([-1, *places], [*places, len(whole)], strict=True)]
        assert max(gaps) <= 3 * len(whole) / min(limit, len(whole))


def test_erasures_of_one_base_share_their_prompts_under_a_limit() -> None:
    chosen = [
        select_retain_prompts(resolve_concepts([name]), source="classes", limit=60)
        for name in ("dog", "boat", "fruit")
    ]
    for one in chosen:
        for other in chosen:
            assert len(set(other.prompts) - set(one.prompts)) <= len(one.dropped) + len(other.dropped)
            assert len(set(one.prompts) & set(other.prompts)) > 45


def test_the_user_leaves_out_further_words() -> None:
    selection = select_retain_prompts(DOG, exclude=("cats", " Wine glass "))
    reasons = {one.prompt: one.reason for one in selection.dropped}
    assert reasons["a photo of a cat"] == "says 'cats', which is excluded"
    assert reasons["a photo of a wine glass"] == "says 'Wine glass', which is excluded"
    assert set(reasons) == {"a photo of a cat", "a photo of a dog", "a photo of a wine glass"}


def test_a_rule_of_the_user_takes_the_place_of_ours() -> None:
    asked: list[tuple[tuple[str, ...], ConceptSet]] = []

    def mine(prompts: tuple[str, ...], concepts: ConceptSet) -> Sequence[str | None]:
        asked.append((prompts, concepts))
        return ["shows a dog" if prompt.endswith("chair") else None for prompt in prompts]

    selection = select_retain_prompts(DOG, rule=mine, exclude=["table", "rocking chair"])
    assert asked == [(retain_set_prompts("objects"), DOG)]
    reasons = {one.prompt: one.reason for one in selection.dropped}
    assert reasons["a photo of a table"] == "says 'table', which is excluded"
    assert reasons["a photo of a rocking chair"] == "says 'rocking chair', which is excluded"
    assert reasons["a photo of an armchair"] == "shows a dog"
    assert "a photo of a dog" in selection.prompts


def test_a_rule_is_taken_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "def all_but_one(prompts, concepts):\n    return [None] + ['why not'] * (len(prompts) - 1)\n"
    (tmp_path / "rules_of_a_set.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    selection = select_retain_prompts(DOG, rule="rules_of_a_set:all_but_one")
    assert selection.prompts == retain_set_prompts("objects")[:1]


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("mine.txt", "a red door\n\n  a dog in the park \na red door\na tall ship\n"),
        ("mine.csv", 'case,prompt\n1,a red door\n2,"a dog in the park"\n3,a red door\n4, a tall ship\n'),
        ("MINE.TXT", "\ufeffa red door\r\na dog in the park\r\na tall ship"),
        ("mine.csv", "\ufeffprompt,seed\r\na red door,1\r\na dog in the park,2\r\na tall ship,3\r\n"),
    ],
)
def test_a_file_of_the_user_is_read_and_filtered(name: str, text: str, world: World, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_bytes(text.encode())
    selection = select_retain_prompts(DOG, source=str(file), world=world)
    assert selection.prompts == ("a red door", "a tall ship")
    assert [one.prompt for one in selection.dropped] == ["a dog in the park"]
    assert selection.source == str(file)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b"", "holds no prompt"),
        ("blank.txt", b"\n  \n", "holds no prompt"),
        ("empty.csv", b"", "holds no prompt"),
        ("heading.csv", b"prompt\n", "holds no prompt"),
        (
            "other.csv",
            b"text,seed\na door,1\n",
            "has the columns 'text', 'seed'; expected one named 'prompt'",
        ),
        ("gap.csv", b"prompt,seed\na door,1\n ,2\n", "line 3 .* has no prompt"),
        ("short.csv", b"seed,prompt\n1,a door\n2\n", "line 3 .* has no prompt"),
        ("comma.csv", b"seed,prompt\n1,a door, a window\n", "line 2 .* has 3 cells; expected 2"),
        ("quote.csv", b'prompt\n"a door\n', "is not csv"),
        ("latin.txt", "a caf\u00e9".encode("latin-1"), "cannot be read .* expected a file in UTF-8"),
        ("mine.json", b'["a door"]', "no retain set .*objects, classes, scenes, styles, or a file"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        select_retain_prompts(DOG, source=str(tmp_path / name))


def test_a_missing_file_or_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read .*No such file.*check its path"):
        select_retain_prompts(DOG, source=str(tmp_path / "none.txt"))
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        select_retain_prompts(DOG, source=str(tmp_path / "folder.csv"))


@pytest.mark.parametrize("source", ["object", "", "coco"])
def test_an_unknown_set_is_refused(source: str) -> None:
    with pytest.raises(
        ConfigError, match=r"there is no retain set .*expected one of objects, classes, scenes, styles"
    ):
        select_retain_prompts(DOG, source=source)


def test_settings_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="limit of the retain set is 0; expected 1 or more"):
        select_retain_prompts(DOG, limit=0)
    for words in ("cat", [" "], [""]):
        with pytest.raises(ConfigError, match=r"words to exclude are .*expected a list"):
            select_retain_prompts(DOG, exclude=words)
    (tmp_path / "dogs.txt").write_text("a dog\ntwo dogs\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"nothing is left .* all 2 prompts .* says 'dog', which is erased"):
        select_retain_prompts(DOG, source=str(tmp_path / "dogs.txt"), with_empty=True)


def first_word_is_a_style(prompt: str) -> bool:
    return re.match(rf"(an? )?({'|'.join(STYLES)})\b", prompt) is not None


def test_styles_are_spoken_of_first_as_often_as_last() -> None:
    ink = resolve_concepts(["ink"])
    selection = select_retain_prompts(ink, world="embedded", source="styles", limit=243)
    first = [prompt for prompt in selection.prompts if first_word_is_a_style(prompt)]
    assert 110 < len(first) < 134
    assert {"pixel, a puppy", "a noto picture of a puppy"} <= set(first)
    assert all(any(style in prompt for style in STYLES) for prompt in selection.prompts)
    assert not [prompt for prompt in selection.prompts if re.search(r"\bink\b", prompt)]
    said = Counter(style for prompt in first for style in STYLES if style in prompt)
    assert min(said[style] for style in STYLES if style != "ink") > 10


def test_styles_of_a_pretrained_model_go_with_everyday_things() -> None:
    prompts = retain_set_prompts("styles")
    assert {"impressionism, a table", "an impressionism picture of a bed"} <= set(prompts)
    assert any(prompt.startswith("a Claude Monet picture of ") for prompt in prompts)
    assert len(prompts) == len(set(prompts))
    things = {photo.removeprefix("a photo of ") for photo in retain_set_prompts("objects")}
    assert all(any(thing in prompt for thing in things) for prompt in prompts)


@pytest.mark.parametrize(
    ("concept", "gone", "stays"),
    [("Monet", "Monet", "Rembrandt"), ("impressionism", "Monet", "Dürer"), ("Van Gogh", "Gogh", "cubism")],
)
def test_an_erased_style_takes_its_own_painters_along(concept: str, gone: str, stays: str) -> None:
    selection = select_retain_prompts(resolve_concepts([concept]), source="styles")
    assert not [prompt for prompt in selection.prompts if gone in prompt or concept in prompt]
    assert [prompt for prompt in selection.prompts if stays in prompt]
