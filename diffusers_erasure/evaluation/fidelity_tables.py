"""The fidelity of a report as a table for a terminal."""

from __future__ import annotations

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from .fidelity import Fidelity, FidelityRow, Figure
from .records import NotMeasured

AGREEMENT = ("n", "agree", "95 %", "other seed")
KID = ("1000 KID", "base itself")
FID = ("FID", "base itself")


def fidelity_parts(fidelity: Fidelity) -> list[RenderableType]:
    """A row per prompt set of what should stay, and how to read it."""
    table = Table(box=None, pad_edge=False)
    table.add_column("kept")
    with_fid = any(not isinstance(row.fid, str) for row in fidelity.rows)
    headings = (*AGREEMENT, *KID, *(FID if with_fid else ()))
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=" " not in heading or heading == "95 %")
    for row in fidelity.rows:
        table.add_row(*_cells(row)[: 1 + len(headings)])
    return [
        Text(),
        table,
        Text(
            f"features of {fidelity.extractor}; agree 1: the base's own picture, 'other seed': two of "
            "its own; KID 0: the base's own distribution, 'base itself': what chance gives",
            style="dim",
        ),
    ]


def _cells(row: FidelityRow) -> tuple[str, ...]:
    return (
        row.name,
        str(row.pictures),
        f"{row.agreement.value:.3f}",
        f"{row.agreement.low:.3f}-{row.agreement.high:.3f}",
        "-" if isinstance(row.other_seed, str) else f"{row.other_seed.value:.3f}",
        _about(row.kid),
        _about(row.base_kid),
        _number(row.fid),
        _number(row.base_fid),
    )


def _about(figure: Figure | NotMeasured) -> str:
    """A thousand times a figure whose interval is symmetric."""
    if isinstance(figure, str):
        return "-"
    return f"{1000 * figure.value:.2f}±{1000 * (figure.high - figure.low) / 2:.2f}"


def _number(value: float | NotMeasured) -> str:
    return "-" if isinstance(value, str) else f"{value:.3g}"
