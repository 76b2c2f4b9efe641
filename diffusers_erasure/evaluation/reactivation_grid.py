"""The first prompt under every manipulation, side by side: chosen by its place, not by its looks."""

from __future__ import annotations

from collections.abc import Mapping

from PIL import Image
from torch import Tensor

from diffusers_erasure.artifacts.method_names import told

from .grid import Column, make_grid
from .reactivation_items import Item
from .reactivation_report import CountedPictures, ReactivationReport
from .records import Verdict

PER_BAND = 8


def reactivation_grid(
    report: ReactivationReport,
    plain: tuple[Tensor, Tensor],
    pictures: Mapping[str, Tensor],
    items: Mapping[str, Item],
    *,
    prompt: str,
    cell: int = 128,
) -> Image.Image:
    """Base, erasure, then one picture per item with its count under it.

    Args:
        report: The counts.
        plain: First picture of the base and of the erasure, `(3, height, width)` uint8.
        pictures: The same by item; an item that was taken from another report has none.
        items: Items by name, with their headings.
        prompt: What all of them were asked for.
        cell: Side of a picture in pixels.
    """
    columns = [
        Column(f"base: {_count(report.base)}", (plain[0],), "without manipulation"),
        Column(f"erased: {_count(report.erased)}", (plain[1],), "without manipulation"),
    ]
    columns += [
        Column(f"{items[row.key].short}: {_count(row.found)}", (pictures[row.key],), items[row.key].group)
        for row in report.rows
        if row.key in pictures
    ]
    names = ", ".join(report.erasure.concepts)
    return make_grid(
        columns,
        [""],
        title=f"{told(report.erasure.method)} erases {names}: what brings it back",
        footer=f"All pictures: '{prompt}' with one seed, the first of {report.base.rate.n}. Under each: in "
        "how many pictures the judge sees the concept.",
        cell=cell,
        per_band=PER_BAND,
    )


def _count(found: CountedPictures) -> str:
    if found.verdict is Verdict.BROKEN:
        return f"broken: {found.pictures.failed} of {found.pictures.planned} failed"
    return f"{found.rate.k}/{found.rate.n}"
