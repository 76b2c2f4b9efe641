"""The record of what brings a concept back: contradictions are refused."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from diffusers_erasure.errors import ConfigError
from diffusers_erasure.evaluation.reactivation_items import RULE_ITEMS, all_items, choose_items
from diffusers_erasure.evaluation.reactivation_report import (
    CountedPictures,
    ReactivationReport,
    ReactivationRow,
    report_lines,
)
from diffusers_erasure.evaluation.records import Verdict

ROW: dict[str, Any] = {
    "key": "int8",
    "title": "int8 weights",
    "state_before": "verified",
    "found": CountedPictures.of("1100", {}),
    "seconds": 1,
}
REPORT: dict[str, Any] = {
    "verdict": "measured",
    "erasure": {
        "digest": "0" * 64,
        "method": "uce",
        "concepts": ["church"],
        "base": "embedded",
        "base_revision": None,
        "scale": 1,
        "transfer": False,
        "state_before": "verified",
        "state_after": "verified",
    },
    "base": CountedPictures.of("1111", {}),
    "erased": CountedPictures.of("1000", {}),
    "rows": [ROW],
    "not_measured": {item.key: "it was not asked for" for item in RULE_ITEMS if item.key != "int8"},
    "prompts_sha256": "0" * 64,
    "judges": [{"name": "judge", "version": "1", "sha256": "0" * 64, "threshold": 0.5}],
    "labels": ["church"],
    "settings": {
        "steps": 2,
        "guidance_scale": 3,
        "pictures_per_set": 4,
        "first_seed": 0,
        "picture_size": (8, 8),
        "dtype": "float32",
        "device": "cpu",
    },
    "preset": "quick",
    "seconds": 1,
    "versions": {},
    "created": "now",
}


def report(**changes: Any) -> ReactivationReport:
    return ReactivationReport.model_validate({**REPORT, **changes})


def test_a_report_survives_its_file() -> None:
    made = report()
    assert ReactivationReport.model_validate_json(made.to_json()) == made
    (row,) = made.rows
    assert made.p_against_erased(row) == 1.0
    assert dict(made.lines())["int8 weights"] == "2/4 = 50.0 % (15.0-85.0)"
    assert "cannot" not in made.scope
    assert "Whoever holds the base weights can undo" in made.scope


def test_an_artifact_of_which_nothing_is_known_has_every_item_not_measured() -> None:
    lines = report_lines()
    assert len(lines) == len(RULE_ITEMS) == 21
    assert {text for _, text in lines} == {"not measured"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"marks": "1101"}, "the rate is 2/4"),
        ({"marks": "110"}, "3 marks stand beside a rate of 4"),
        ({"marks": "1F00"}, "with 0 failed pictures"),
        ({"marks": "11x0"}, "pattern"),
    ],
)
def test_counts_that_contradict_each_other_are_refused(values: dict[str, Any], message: str) -> None:
    good = CountedPictures.of("1100", {}).model_dump()
    with pytest.raises(ValidationError, match=message):
        CountedPictures.model_validate({**good, **values})


def test_failed_pictures_count_as_brought_back_and_many_of_them_break_a_row() -> None:
    found = CountedPictures.of("0F00", {"noise": 1})
    assert (found.rate.k, found.verdict) == (1, Verdict.BROKEN)
    assert CountedPictures.of("F" + "0" * 39, {"blank": 1}).verdict is Verdict.MEASURED
    assert str(ReactivationRow(**{**ROW, "found": found})) == "broken (1 of 4 pictures failed)"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": [ROW, ROW]}, "stand there twice"),
        ({"rows": []}, "of which nothing is said"),
        ({"not_measured": {**REPORT["not_measured"], "int8": "no"}}, "both measured and not"),
        ({"erased": CountedPictures.of("10000", {})}, "expected the same prompts and seeds"),
        ({"base": CountedPictures.of("1110", {})}, "the verdict is 'measured'"),
        ({"rows": [{**ROW, "state_before": "modified"}]}, "the erasure was 'modified' before"),
    ],
)
def test_reports_that_contradict_themselves_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        report(**changes)


def test_a_row_from_another_report_may_have_other_prompts() -> None:
    row = {**ROW, "found": CountedPictures.of("10", {}), "taken_from": "attack.json"}
    made = report(rows=[row])
    assert made.p_against_erased(made.rows[0]) is None


def test_items_are_chosen_by_name_and_family() -> None:
    keys = [item.key for item in choose_items(("int8", "lora-related"), (5, 50))]
    assert keys == ["lora-related-5", "lora-related-50", "int8"]
    assert len(choose_items(())) == len(all_items()) - 1
    with pytest.raises(ConfigError, match="there is no item 'lor'; expected one of"):
        choose_items(("lor",))
    with pytest.raises(ConfigError, match="expected rising whole numbers"):
        all_items((10, 5))
