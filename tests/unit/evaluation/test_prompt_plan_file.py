"""Prompt sets of a user's own: what is read, which picture asks what of whom, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from diffusers_erasure.concepts import Concept, ConceptKind
from diffusers_erasure.errors import ConfigError, EvaluationError
from diffusers_erasure.evaluation.asking import check_judges, plan_and_panel
from diffusers_erasure.evaluation.judges import Panel, load_panel
from diffusers_erasure.evaluation.prompt_plan_file import PlanFile
from diffusers_erasure.evaluation.prompt_sets import SEED_STRIDE, JudgeRole, PromptPlan, Purpose
from tests.constant_judge import ConstantJudge
from tests.foreign_models import write_classifier, write_clip

ROWS = [
    {"set": "styles", "prompt": "a pier, etched", "label": "etching"},
    {"set": "own name", "prompt": "a zeppelin over a lake"},
    {"set": "own name", "prompt": "two zeppelins", "label": "zeppelin | airship"},
    {"set": "other concepts", "prompt": "a kite", "label": "kite", "seed": 7},
]
CONCEPTS = (Concept(name="zeppelin"),)
FIRST = 1000
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes rows as jsonl."""

    def build(*rows: object) -> Path:
        file = tmp_path / "sets.jsonl"
        file.write_text("\n".join(json.dumps(row) for row in rows))
        return file

    return build


@pytest.fixture
def panel() -> Panel:
    return Panel(
        ConstantJudge("things", ("zeppelin", "airship", "kite", "harbour"), "kite"),
        style=ConstantJudge("styles", ("etching",), "etching"),
    )


def planned(file: Path, panel: Panel, *, n: int | None = None) -> PromptPlan:
    return PlanFile.read(file).plan(CONCEPTS, panel, n=n, first_seed=FIRST)


def test_sets_stand_in_the_order_of_a_report_with_what_they_say(write: Write, panel: Panel) -> None:
    plan = planned(write(*ROWS), panel)
    assert [(one.name, one.purpose) for one in plan.sets] == [
        ("own name", Purpose.ERASED),
        ("other concepts", Purpose.IN_DOMAIN),
        ("styles", Purpose.CROSS_DOMAIN),
    ]
    assert plan.not_measured == dict.fromkeys(("synonyms", "implicit"), "sets.jsonl has no such prompts")


def test_a_file_without_what_should_stay_says_so(write: Write, panel: Panel) -> None:
    assert set(planned(write(ROWS[1]), panel).not_measured) == {"synonyms", "implicit", "what should stay"}


def test_each_picture_asks_the_judge_that_knows_its_labels(write: Write, panel: Panel) -> None:
    own, others, styles = planned(write(*ROWS), panel).sets
    assert [(item.about, item.labels, item.role) for item in own.items] == [
        ("zeppelin", ("zeppelin",), JudgeRole.CONCEPT),
        ("zeppelin", ("zeppelin", "airship"), JudgeRole.CONCEPT),
    ]
    assert [(item.about, item.labels, item.role) for item in (*others.items, *styles.items)] == [
        ("kite", ("kite",), JudgeRole.CONCEPT),
        ("etching", ("etching",), JudgeRole.STYLE),
    ]


def test_labels_asked_for_with_the_judge_count_where_a_row_names_none(write: Write, panel: Panel) -> None:
    own = planned(write(*ROWS), replace(panel, asked=("harbour",))).sets[0]
    assert [item.labels for item in own.items] == [("harbour",), ("zeppelin", "airship")]


def test_a_judge_of_what_should_stay_answers_for_it_alone(write: Write, panel: Panel) -> None:
    other = ConstantJudge("others", ("kite", "etching"), "kite")
    plan = planned(write(*ROWS), replace(panel, retention=other))
    assert [item.role for one in plan.sets for item in one.items] == [
        JudgeRole.CONCEPT, JudgeRole.CONCEPT, JudgeRole.RETENTION, JudgeRole.RETENTION
    ]  # fmt: skip


def test_seeds_are_those_of_our_sets_unless_a_row_has_one(write: Write, panel: Panel) -> None:
    own, others, styles = planned(write(*ROWS), panel).sets
    assert own.seeds == (FIRST, FIRST + 1)
    assert others.seeds == (7,)
    assert styles.seeds == (FIRST + 6 * SEED_STRIDE,)


def test_prompts_come_again_with_further_seeds(write: Write, panel: Panel) -> None:
    own = planned(write(*ROWS[1:3]), panel, n=5).sets[0]
    assert own.prompts == ("a zeppelin over a lake", "two zeppelins") * 2 + ("a zeppelin over a lake",)
    assert own.seeds == tuple(range(FIRST, FIRST + 5))
    assert planned(write(*ROWS[1:3]), panel, n=1).sets[0].prompts == ("a zeppelin over a lake",)


def test_a_theme_counts_as_its_members(write: Write, panel: Panel) -> None:
    members = (Concept(name="airship"), Concept(name="kite"))
    flying = (Concept(name="flying", kind=ConceptKind.theme, members=members),)
    rows = [{"set": "own name", "prompt": "sky"}, {"set": "own name", "prompt": "up", "concept": "kite"}]
    (own,) = PlanFile.read(write(*rows)).plan(flying, panel, n=None, first_seed=0).sets
    assert [(item.about, item.labels) for item in own.items] == [
        ("flying", ("airship", "kite")), ("kite", ("kite",))
    ]  # fmt: skip


def test_csv_and_jsonl_say_the_same(write: Write, tmp_path: Path) -> None:
    csv = tmp_path / "sets.csv"
    csv.write_text(
        'set,prompt,label,seed\nstyles,"a pier, etched",etching,\nown name,a zeppelin over a lake,,\n'
        "own name,two zeppelins,zeppelin|airship,\nother concepts,a kite,kite,7\n"
    )
    from_csv, from_jsonl = (PlanFile.read(file).rows for file in (csv, write(*ROWS)))
    assert [replace(row, row=0) for row in from_csv] == [replace(row, row=0) for row in from_jsonl]
    assert [row.row for row in from_csv] == [2, 3, 4, 5]


OWN = {"set": "own name", "prompt": "a zeppelin"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**OWN, "guidance": 3}, "has set, prompt, guidance; expected set and prompt, and if needed label, "),
        ({"prompt": "a kite"}, "has prompt; expected set and prompt"),
        ({"set": "own", "prompt": "a kite"}, "is of the set 'own'; expected one of own name; synonyms; "),
        ({"set": "own name", "prompt": " "}, "has no prompt"),
        ({"set": "own name", "prompt": 3}, "has the prompt 3; expected some text"),
        ({"set": "styles", "prompt": "a kite, etched"}, "of the set 'styles' has no label; expected what"),
        ({**OWN, "seed": -1}, "has the seed -1; expected a whole number from 0"),
        ({**OWN, "seed": 1.5}, "has the seed 1.5"),
        ({**OWN, "seed": True}, "has the seed True"),
        ({**OWN, "seed": "x"}, "has the seed 'x'"),
        ("a zeppelin", "is no JSON object"),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_used_is_named(row: object, message: str, write: Write) -> None:
    with pytest.raises(ConfigError, match=r"sets\.jsonl, row 2: the row ") as caught:
        PlanFile.read(write(OWN, row))
    assert message in str(caught.value)


def test_files_that_hold_no_sets_are_refused(write: Write, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no prompt of the set 'own name'"):
        PlanFile.read(write(ROWS[0]))
    with pytest.raises(ConfigError, match=r"expected \.csv or \.jsonl"):
        PlanFile.read(tmp_path / "sets.txt")
    with pytest.raises(ConfigError, match="cannot be read"):
        PlanFile.read(tmp_path / "none.csv")


def test_a_label_that_no_judge_knows_is_refused_with_its_row(write: Write, panel: Panel) -> None:
    row = {"set": "styles", "prompt": "a pier, woodcut", "label": "woodcut"}
    with pytest.raises(EvaluationError, match=r"sets.jsonl, row 2: the judge cannot name 'woodcut'"):
        planned(write(OWN, row), panel)


def test_a_concept_that_is_not_erased_or_not_told_is_refused(write: Write, panel: Panel) -> None:
    with pytest.raises(ConfigError, match=r"row 1: the row is about the concept 'kite'; expected one of zep"):
        planned(write({**OWN, "concept": "kite"}), panel)
    two = (*CONCEPTS, Concept(name="kite"))
    with pytest.raises(
        ConfigError, match=r"does not say which concept it means; expected one of zep.*, kite"
    ):
        PlanFile.read(write(OWN)).plan(two, panel, n=None, first_seed=0)


def test_pictures_that_would_be_the_same_or_have_no_seed_are_refused(write: Write, panel: Panel) -> None:
    seeded = {**OWN, "seed": 3}
    with pytest.raises(ConfigError, match="'a zeppelin' with the seed 3 2 times in the set 'own name'"):
        planned(write(seeded, seeded), panel)
    with pytest.raises(ConfigError, match=r"3 pictures of the set 'own name' .* has 2 with seeds"):
        planned(write(seeded, OWN), panel, n=3)
    with pytest.raises(ConfigError, match="0 pictures of the set 'own name' cannot be drawn"):
        planned(write(OWN), panel, n=0)


def test_clip_is_told_everything_that_is_asked(write: Write, tmp_path: Path) -> None:
    clip = f"clip:{write_clip(tmp_path / 'clip')}"
    plan, panel = plan_and_panel(CONCEPTS, PlanFile.read(write(*ROWS)), judge=clip, first_seed=0)
    assert panel.concept.labels == ("zeppelin", "airship", "etching", "kite")
    assert [item.role for one in plan.sets for item in one.items] == [JudgeRole.CONCEPT] * 4
    verdicts = panel.concept.judge(torch.zeros(2, 3, 16, 16, dtype=torch.uint8))
    assert verdicts.probabilities.sum(dim=1).tolist() == pytest.approx([1, 1])
    alone = load_panel(clip, names=("zeppelin",))
    assert alone.concept.labels == ("zeppelin", "something else")
    told = load_panel(f"{clip}#zeppelin,against=kite", names=("zeppelin", "harbour"))
    assert told.concept.labels == ("zeppelin", "harbour", "kite")


def test_two_families_share_the_questions(write: Write, tmp_path: Path) -> None:
    classifier = f"image-classifier:{write_classifier(tmp_path / 'vit')}#tench"
    clip = f"clip:{write_clip(tmp_path / 'clip')}"
    rows = [OWN, {"set": "other concepts", "prompt": "a kite", "label": "kite"}]
    plan, panel = plan_and_panel(
        CONCEPTS, PlanFile.read(write(*rows)), judge=classifier, retention_judge=clip, first_seed=0
    )
    assert [item.labels for one in plan.sets for item in one.items] == [("tench",), ("kite",)]
    assert panel.retention is not None
    assert panel.retention.labels == ("kite", "something else")
    assert [judge.name.partition(":")[0] for judge in panel.members] == ["image-classifier", "clip"]


@pytest.mark.parametrize(
    ("judge", "retention", "own", "message"),
    [
        ("embedded#church", None, False, "another one in every prompt set"),
        ("embedded", "clip:x/y", False, "give --prompts FILE"),
        ("embedded", "clip:x/y#a church", True, "expected a judge without labels"),
    ],
)
def test_judges_that_the_sets_cannot_use_are_refused(
    judge: str, retention: str | None, own: bool, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_judges(judge, retention, own_prompts=own)
    check_judges("nudenet#nudity", "clip:x/y", own_prompts=True)
