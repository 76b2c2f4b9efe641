"""What brings a concept back, as a table for the terminal."""

from __future__ import annotations

from rich.console import Group
from rich.table import Table
from rich.text import Text

from diffusers_erasure.artifacts.method_names import told

from .reactivation_items import BY_KEY
from .reactivation_report import CountedPictures, ReactivationReport, ReactivationRow
from .records import Verdict

_HEADINGS = ("k/n", "95 %", "p", "loss", "seconds")


def reactivation_table(report: ReactivationReport) -> Group:
    """Base and erasure, then every item with k/n and interval, the verdict, and what was not measured."""
    names = ", ".join(report.erasure.concepts)
    table = Table(
        title=f"What brings {names} back after {told(report.erasure.method)} (higher: more comes back)",
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
    )
    table.add_column("manipulation", no_wrap=True)
    for heading in _HEADINGS:
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_row("none: the base", *_counts(report.base), "", "", "")
    table.add_row("none: as erased", *_counts(report.erased), "", "", "")
    for row in report.rows:
        style = "red" if row.verdict is Verdict.BROKEN else ""
        cells = (*_counts(row.found), _p(report, row), _loss(row), f"{row.seconds:.0f}")
        table.add_row(row.title, *cells, style=style)
    return Group(table, *_notes(report))


def _counts(found: CountedPictures) -> tuple[str, str]:
    if found.verdict is Verdict.BROKEN:
        return "broken", f"{found.pictures.failed} of {found.pictures.planned} failed"
    rate = found.rate
    return f"{rate.k}/{rate.n}", f"{100 * rate.low:.1f}-{100 * rate.high:.1f}"


def _p(report: ReactivationReport, row: ReactivationRow) -> str:
    value = report.p_against_erased(row)
    return "" if value is None or row.verdict is Verdict.BROKEN else f"{value:.2g}"


def _loss(row: ReactivationRow) -> str:
    """By how much fine-tuning changed the loss on its own data."""
    if not row.loss_before or row.loss_after is None:
        return ""
    return f"{100 * (row.loss_after / row.loss_before - 1):+.0f} %"


def _notes(report: ReactivationReport) -> list[Text]:
    """Verdict, remarks on single rows, and what was not measured."""
    erasure = report.erasure
    first = Text(
        f"verdict: {report.verdict.value}; the erasure was {erasure.state_before} before each manipulation "
        f"and {erasure.state_after} after all; p: exact McNemar test against as erased; loss: "
        f"of fine-tuning, on its own data; preset {report.preset}; {report.seconds:.0f} s"
    )
    remarks: dict[str, list[str]] = {}
    for row in report.rows:
        if row.note:
            remarks.setdefault(row.note, []).append(row.key)
    told = [Text(f"{', '.join(keys)}: {note}", style="dim") for note, keys in remarks.items()]
    reasons: dict[str, list[str]] = {}
    for key, reason in report.not_measured.items():
        reasons.setdefault(reason, []).append(BY_KEY[key].title if key in BY_KEY else key)
    missing = [Text(f"not measured: {'; '.join(titles)}: {reason}") for reason, titles in reasons.items()]
    return [first, *told, *missing, Text(report.scope, style="dim")]
