"""A report as a table for the terminal, and several reports in one."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Group
from rich.table import Table
from rich.text import Text

from diffusers_erasure.artifacts.method_names import told

from .attack_tables import attack_parts
from .confusion import JudgeValidation, Source
from .fidelity_tables import fidelity_parts
from .prompt_sets import Purpose
from .report import EvaluationReport, Row, Verdict

_COLOURS = {
    Verdict.MEASURED: "green",
    Verdict.DEGENERATE: "yellow",
    Verdict.BROKEN: "red",
    Verdict.HARNESS_INVALID: "red",
}


def report_table(report: EvaluationReport) -> Group:
    """Every row with k/n and intervals, the verdict, and what was not measured."""
    names = ", ".join(report.erasure.concepts)
    table = Table(
        title=f"{told(report.erasure.method)} erases {names} from {report.erasure.base}",
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
    )
    for heading in ("prompts", "wanted"):
        table.add_column(heading, no_wrap=True)
    for heading in ("before", "after", "95 %", "change", "2nd judge"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in report.rows:
        table.add_row(*_cells(row), style="" if row.verdict is Verdict.MEASURED else _COLOURS[row.verdict])
    attacks = [] if isinstance(report.attacks, str) else attack_parts(report.attacks)
    fidelity = [] if isinstance(report.fidelity, str) else fidelity_parts(report.fidelity)
    return Group(table, *fidelity, *attacks, *_notes(report))


def methods_table(reports: Mapping[str, EvaluationReport], *, title: str) -> Table:
    """Several erasures, a column each: pictures that show what was asked for, and what attacks bring back.

    Args:
        reports: By the name that a column gets.
        title: What they have in common.
    """
    sets = list(dict.fromkeys(row.name for report in reports.values() for row in report.rows))
    attacks = list(dict.fromkeys(name for report in reports.values() for name in _brought_back(report)))
    table = Table(
        title=f"{title}: pictures that show what was asked for, and prompts that an attack brings back "
        "(-: not tried)",
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
    )
    table.add_column("pictures, prompts", no_wrap=True)
    for method in reports:
        table.add_column(method, justify="right", overflow="fold")
    for name in sets:
        rows = [report.row(name) for report in reports.values()]
        table.add_row(name, *("-" if row is None else f"{row.erased.k}/{row.erased.n}" for row in rows))
    for name in attacks:
        rates = [_brought_back(report).get(name, "-") for report in reports.values()]
        table.add_row(name.replace("_", " "), *rates)
    return table


def _brought_back(report: EvaluationReport) -> dict[str, str]:
    """By attack: in how many prompts its largest budget brought the concept back."""
    if isinstance(report.attacks, str):
        return {}
    largest = {attack.name: attack.runs[-1].asr for attack in report.attacks.attacks}
    return {name: f"{asr.k}/{asr.n}" for name, asr in largest.items()}


def _cells(row: Row) -> tuple[str, ...]:
    after = row.erased
    return (
        row.name,
        "low" if row.purpose is Purpose.ERASED else "high",
        f"{row.base.k}/{row.base.n}",
        f"{after.k}/{after.n}",
        f"{100 * after.low:.1f}-{100 * after.high:.1f}",
        f"{row.difference:+.1f}",
        "-" if row.second_judge is None else f"{row.second_judge.k}/{row.second_judge.n}",
    )


def _notes(report: EvaluationReport) -> list[Text]:
    failed = sum(row.base_pictures.failed + row.erased_pictures.failed for row in report.rows)
    planned = sum(row.base_pictures.planned + row.erased_pictures.planned for row in report.rows)
    tried = {} if isinstance(report.attacks, str) else report.attacks.not_measured
    missing = ", ".join((*(() if tried else ("attacks",)), *report.not_measured, *tried))
    first = Text.assemble(
        "verdict: ",
        (report.verdict.value, _COLOURS[report.verdict]),
        f"; the erasure was {report.erasure.state_before} before and {report.erasure.state_after} after; "
        f"{planned} pictures planned, {failed} failed; {report.seconds:.0f} s",
    )
    judges = ", ".join(f"{judge.name} {judge.version} from {judge.threshold:g}" for judge in report.judges)
    doubtful = [
        Text(f"{row.verdict.value}: {row.name}", style=_COLOURS[row.verdict])
        for row in report.rows
        if row.verdict is not Verdict.MEASURED
    ]
    return [
        first,
        *doubtful,
        Text(f"judges: {judges}; {report.control.false_alarms} false alarms on pictures of nothing"),
        *_validation(report),
        *_rules(report),
        Text(f"not measured: {missing}"),
        Text(report.scope, style="dim"),
    ]


def _rules(report: EvaluationReport) -> list[Text]:
    """The rules of an honest figure that were not satisfied, each with what was found."""
    if isinstance(report.rules, str):
        return []
    return [
        Text(f"rule not satisfied: {check.rule} ({check.found})", style="yellow")
        for check in report.rules
        if check.satisfied is False
    ]


def _validation(report: EvaluationReport) -> list[Text]:
    """How often each judge is wrong, by its confusion matrices."""
    if isinstance(report.validation, str):
        return [Text("the judges' errors: not measured")]
    return [Text(f"errors of {found.judge}: {_errors(found)}") for found in report.validation]


def _errors(found: JudgeValidation) -> str:
    parts = []
    for source in Source:
        matrix = found.of(source)
        if matrix is None:
            continue
        rates = (("sees it", matrix.sensitivity), ("sees nothing", matrix.specificity))
        told = ", ".join(f"{name} {rate}" for name, rate in rates if rate is not None)
        parts.append(f"on {source.value} pictures {told}")
    return "; ".join(parts)
