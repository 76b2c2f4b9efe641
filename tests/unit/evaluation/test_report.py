"""Reports: figures that agree with each other, or no report."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from rich.console import Console

from diffusers_erasure.errors import EvaluationError
from diffusers_erasure.evaluation.fidelity import Fidelity, FidelityRow, Figure
from diffusers_erasure.evaluation.intervals import mcnemar_exact
from diffusers_erasure.evaluation.prompt_sets import Purpose
from diffusers_erasure.evaluation.proportion import Proportion
from diffusers_erasure.evaluation.report import (
    Accounting,
    ConceptCount,
    Control,
    ErasureRecord,
    EvaluationReport,
    JudgeRecord,
    Row,
    SamplingRecord,
    Verdict,
    overall_verdict,
    read_report,
    report_rules,
)
from diffusers_erasure.evaluation.tables import report_table


def whole(n: int = 100) -> Accounting:
    return Accounting(planned=n, finished=n, failed=0)


def row(name: str, purpose: Purpose, base: int, erased: int, n: int = 100, **changes: Any) -> Row:
    lost, gained = max(0, base - erased), max(0, erased - base)
    fields: dict[str, Any] = {
        "name": name,
        "purpose": purpose,
        "judge": "corner",
        "prompts": 12,
        "set_sha256": "0" * 64,
        "base": Proportion.of(base, n),
        "erased": Proportion.of(erased, n),
        "lost": lost,
        "gained": gained,
        "mcnemar_p": mcnemar_exact(lost, gained),
        "second_judge": None,
        "agreement": None,
        "by_concept": (ConceptCount(label="church", n=n, base=base, erased=erased),),
        "base_pictures": whole(n),
        "erased_pictures": whole(n),
        "retention_floor": 0.8,
    }
    return Row(**{**fields, **changes})


OWN = row("own name", Purpose.ERASED, 99, 4)
KEPT = row("neighbours", Purpose.IN_DOMAIN, 98, 97)
CONTROL = Control(
    positive=Proportion.of(99, 100), screened=Proportion.of(20, 20), false_alarms=Proportion.of(0, 30)
)
ERASURE: dict[str, Any] = {
    "digest": "f" * 64,
    "method": "uce",
    "concepts": ("church",),
    "base": "embedded",
    "base_revision": None,
    "scale": 1.0,
    "transfer": False,
    "state_before": "verified",
    "state_after": "verified",
}


def report(*rows: Row, control: Control = CONTROL, **changes: Any) -> EvaluationReport:
    chosen = rows or (OWN, KEPT)
    fields: dict[str, Any] = {
        "verdict": overall_verdict(chosen, control),
        "erasure": ErasureRecord(**ERASURE),
        "rows": chosen,
        "control": control,
        "judges": (JudgeRecord(name="corner", version="1", sha256="0" * 64, threshold=0.25),),
        "settings": SamplingRecord(
            steps=25,
            guidance_scale=4.0,
            pictures_per_set=100,
            first_seed=900_000_000,
            picture_size=(64, 64),
            dtype="float32",
            device="cpu",
        ),
        "not_measured": {"fidelity": "not computed"},
        "seconds": 12.5,
        "versions": {"torch": "2.13.0"},
        "created": "2026-01-01T00:00:00+00:00",
    }
    fields["rules"] = report_rules(chosen, control, "not measured", fields["erasure"])
    return EvaluationReport(**{**fields, **changes})


def printed(found: EvaluationReport) -> str:
    console = Console(width=120, record=True, force_terminal=False)
    with console.capture() as capture:
        console.print(report_table(found))
    return capture.get()


def test_a_report_survives_json(tmp_path: Path) -> None:
    path = tmp_path / "evaluation.json"
    path.write_text(report().to_json())
    assert read_report(path) == report()
    assert report().attacks == "not measured"
    assert report().row("own name") == OWN
    assert report().row("synonyms") is None


@pytest.mark.parametrize("state", ["modified", "absent", ""])
@pytest.mark.parametrize("when", ["state_before", "state_after"])
def test_no_report_of_anything_but_a_verified_erasure(when: str, state: str) -> None:
    with pytest.raises(ValidationError, match="expected 'verified'"):
        ErasureRecord(**{**ERASURE, when: state})


BROKEN = Accounting(planned=100, finished=94, failed=6, faults={"blank": 6})
WEAK = Control(
    positive=Proportion.of(94, 100), screened=Proportion.of(20, 20), false_alarms=Proportion.of(0, 30)
)
BLIND = Control(
    positive=Proportion.of(99, 100), screened=Proportion.of(19, 20), false_alarms=Proportion.of(0, 30)
)


@pytest.mark.parametrize(
    ("rows", "control", "verdict"),
    [
        ((OWN, KEPT), CONTROL, Verdict.MEASURED),
        ((OWN, row("neighbours", Purpose.IN_DOMAIN, 98, 78)), CONTROL, Verdict.DEGENERATE),
        ((OWN, row("own name", Purpose.ERASED, 98, 90)), CONTROL, Verdict.MEASURED),
        ((row("own name", Purpose.ERASED, 99, 6, erased_pictures=BROKEN), KEPT), CONTROL, Verdict.BROKEN),
        ((row("own name", Purpose.ERASED, 99, 6, base_pictures=BROKEN), KEPT), CONTROL, Verdict.BROKEN),
        ((OWN, row("neighbours", Purpose.IN_DOMAIN, 49, 49)), CONTROL, Verdict.HARNESS_INVALID),
        ((OWN, KEPT), WEAK, Verdict.HARNESS_INVALID),
        ((OWN, KEPT), BLIND, Verdict.HARNESS_INVALID),
    ],
)
def test_the_verdict_is_the_worst_that_is_true(
    rows: tuple[Row, ...], control: Control, verdict: Verdict
) -> None:
    assert report(*rows, control=control).verdict is verdict


def test_a_better_verdict_than_the_rows_is_refused() -> None:
    degenerate = row("neighbours", Purpose.IN_DOMAIN, 98, 20)
    with pytest.raises(ValidationError, match="its rows say 'degenerate'"):
        report(OWN, degenerate, verdict=Verdict.MEASURED)


@pytest.mark.parametrize(
    "changes",
    [
        {"base": Proportion.of(98, 100)},
        {"lost": 90},
        {"base_pictures": whole(99)},
        {"by_concept": (ConceptCount(label="church", n=100, base=99, erased=3),)},
        {"mcnemar_p": 0.5},
    ],
)
def test_counts_that_contradict_each_other_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="do not edit a report by hand"):
        Row(**{**dict(OWN), **changes})


@pytest.mark.parametrize(
    "counts",
    [{"finished": 9, "failed": 0}, {"finished": 9, "failed": 1, "faults": {}}, {"finished": 10, "failed": 1}],
)
def test_dropped_pictures_are_noticed(counts: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="planned = finished"):
        Accounting(planned=10, **counts)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format_version": 1}', "\xff"])
def test_what_is_no_report_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "evaluation.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(EvaluationError, match="is no evaluation report"):
        read_report(path)


def test_an_edited_report_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "evaluation.json"
    path.write_text(report().to_json().replace('"k": 4,', '"k": 1,'))
    with pytest.raises(EvaluationError, match="do not edit a report by hand"):
        read_report(path)


def test_a_report_of_the_former_format_is_read(tmp_path: Path) -> None:
    """It lacks what format 3 added, which is "not measured" then."""
    values = json.loads(report().to_json())
    del values["fidelity"], values["rules"], values["erasure"]["training_seed"]
    for one in values["rows"]:
        del one["seeds"]
    path = tmp_path / "evaluation.json"
    path.write_text(json.dumps({**values, "format_version": 2}))
    found = read_report(path)
    assert (found.fidelity, found.rules, found.rows) == ("not measured", "not measured", (OWN, KEPT))
    path.write_text(json.dumps({**values, "format_version": 3}))
    with pytest.raises(EvaluationError, match="expected what follows from its figures"):
        read_report(path)


def test_a_rule_may_be_worded_as_in_its_format(tmp_path: Path) -> None:
    """Format 3 asked something else of the weak eraser; without attacks it says the same all the same."""
    path = tmp_path / "evaluation.json"
    former = report().to_json().replace("and wins against a weak eraser", "and on a weak eraser")
    with pytest.raises(ValidationError, match="follows from its figures"):
        EvaluationReport.model_validate_json(former)
    path.write_text(former.replace('"format_version": 4', '"format_version": 3'))
    assert "and on a weak eraser" in read_report(path).rules[1].rule
    pretended = former.replace('"satisfied": "not measured"', '"satisfied": true')
    path.write_text(pretended.replace('"format_version": 4', '"format_version": 3'))
    with pytest.raises(EvaluationError, match="expected what follows from its figures"):
        read_report(path)


MOVED = FidelityRow(
    name="neighbours",
    pictures=100,
    prompts=12,
    agreement=Figure(value=0.97, low=0.96, high=0.98),
    other_seed=Figure(value=0.81, low=0.79, high=0.84),
    kid=Figure(value=0.012, low=0.009, high=0.015),
    base_kid=Figure(value=-0.0001, low=-0.002, high=0.002),
    fid="not measured",
    base_fid="not measured",
)
FIDELITY = Fidelity(extractor="corner", sha256="0" * 64, width=192, rows=(MOVED,))


def test_a_measured_fidelity_is_shown_and_survives_json(tmp_path: Path) -> None:
    found = report(fidelity=FIDELITY, not_measured={})
    path = tmp_path / "evaluation.json"
    path.write_text(found.to_json())
    assert read_report(path) == found
    text = printed(found)
    for expected in ("0.970", "0.960-0.980", "0.810", "12.00±3.00", "-0.10±2.00"):
        assert expected in text
    assert "not measured: attacks\n" in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fidelity": FIDELITY}, "both that fidelity was measured and that it was not, or neither"),
        ({"not_measured": {}}, "both that fidelity was measured and that it was not, or neither"),
        ({"pictures": 99}, "is of 99 pictures; expected the 100"),
        ({"name": "own name"}, "is of 100 pictures; expected the none"),
        ({"name": "all of these", "pictures": 200}, "is of 200 pictures; expected the 100"),
    ],
)
def test_a_fidelity_of_other_pictures_is_refused(changes: dict[str, Any], message: str) -> None:
    if set(changes) & {"name", "pictures"}:
        rows = (MOVED.model_copy(update=changes),)
        changes = {"fidelity": FIDELITY.model_copy(update={"rows": rows}), "not_measured": {}}
    with pytest.raises(ValidationError, match=message):
        report(**changes)


def test_a_rule_that_was_not_satisfied_is_shown_and_cannot_be_dropped() -> None:
    found = report()
    assert not isinstance(found.rules, str)
    assert "rule not satisfied: 3 training seeds (one artifact" in printed(found)
    made_up = tuple(check.model_copy(update={"satisfied": True}) for check in found.rules)
    for rules in (made_up, found.rules[:-1], "not measured"):
        with pytest.raises(ValidationError, match="expected what follows from its figures"):
            report(rules=rules)


def test_a_missing_report_says_how_to_write_one(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="diffusers-erasure evaluate"):
        read_report(tmp_path / "evaluation.json")


def test_the_table_shows_counts_intervals_and_what_was_not_measured() -> None:
    text = printed(report())
    for expected in ("own name", "99/100", "4/100", "1.6-9.8", "-95.0", "not measured: attacks, fidelity"):
        assert expected in text


def test_a_report_is_read_without_torch() -> None:
    code = "import sys, diffusers_erasure.evaluation.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("base", [90, 95, 100])
def test_retention_at_the_floor_is_measured(base: int) -> None:
    """0.8 of 90 is 72, though 0.8 times 0.9 is more than 0.72 in floating point."""
    floor = base * 4 // 5
    assert row("styles", Purpose.CROSS_DOMAIN, base, floor).verdict is Verdict.MEASURED
    assert row("styles", Purpose.CROSS_DOMAIN, base, floor - 1).verdict is Verdict.DEGENERATE
