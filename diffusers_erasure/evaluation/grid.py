"""Pictures side by side in one PNG: columns are prompts in titled groups, rows are states (before, after).

Small pictures are enlarged so that a reader can see them, captions are wrapped under each column, and the
font is the one that Pillow carries, so that the picture looks the same everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby, pairwise
from unicodedata import combining, normalize

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from diffusers_erasure.diffusion.pictures import picture
from diffusers_erasure.errors import EvaluationError

INK, MUTED, PAPER, RULE = (28, 30, 36), (96, 102, 114), (255, 255, 255), (208, 212, 220)
GAP = 8
GROUP_GAP = 22
MARGIN = 18
TITLE_SIZE, GROUP_SIZE, CAPTION_SIZE, LABEL_SIZE = 22, 16, 14, 16
LINE_SPACING = 1.25

Font = ImageFont.ImageFont | ImageFont.FreeTypeFont


@dataclass(frozen=True)
class Column:
    """One prompt of the grid.

    Attributes:
        caption: What stands under the column.
        pictures: One per row, each `(3, height, width)` uint8.
        group: Title over neighbouring columns of the same group; "" for none.
    """

    caption: str
    pictures: tuple[Tensor, ...]
    group: str = ""


@dataclass(frozen=True)
class _Layout:
    cell: int
    lefts: tuple[int, ...]
    tops: tuple[int, ...]
    caption_top: int
    size: tuple[int, int]


def make_grid(
    columns: Sequence[Column],
    rows: Sequence[str],
    *,
    title: str = "",
    footer: str = "",
    cell: int = 128,
    per_band: int = 12,
) -> Image.Image:
    """Lay pictures out in a labelled grid.

    Args:
        columns: From left to right; neighbours of one group stand under one title.
        rows: Label of each row, from top to bottom.
        title: Text over everything; wrapped.
        footer: Small text under everything; wrapped.
        cell: Side of a picture in pixels; smaller pictures are enlarged to it.
        per_band: Columns after which the grid goes on below, if possible between two groups.
    """
    if (
        not columns
        or not rows
        or per_band < 1
        or any(len(column.pictures) != len(rows) for column in columns)
    ):
        counts = sorted({len(column.pictures) for column in columns})
        raise EvaluationError(
            f"a grid of {len(columns)} columns with {counts} pictures, {len(rows)} row labels and "
            f"{per_band} columns per band cannot be laid out; expected at least one column and one picture "
            "per row in each; pass pictures for every row"
        )
    bands = [_draw_band(part, rows, cell) for part in split_bands(columns, per_band)]
    width = max(band.width for band in bands)
    above = wrap(title, font(TITLE_SIZE), width - 2 * MARGIN)
    below = wrap(footer, font(CAPTION_SIZE), width - 2 * MARGIN)
    top = MARGIN + len(above) * _line(TITLE_SIZE) + (GAP if above else 0)
    height = (
        top + sum(band.height for band in bands) + len(below) * _line(CAPTION_SIZE) + (GAP if below else 0)
    )
    canvas = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(canvas)
    _draw_lines(draw, above, (MARGIN, MARGIN), TITLE_SIZE, INK)
    for band in bands:
        canvas.paste(band, (0, top))
        top += band.height
    _draw_lines(draw, below, (MARGIN, top - GAP), CAPTION_SIZE, MUTED)
    return canvas


def split_bands(columns: Sequence[Column], per_band: int) -> list[list[Column]]:
    """Columns in bands of at most `per_band`; a group is broken only if it is wider than a band."""
    bands: list[list[Column]] = [[]]
    for _, run in groupby(columns, key=lambda column: column.group):
        group = list(run)
        if bands[-1] and len(bands[-1]) + len(group) > per_band:
            bands.append([])
        for column in group:
            if len(bands[-1]) == per_band:
                bands.append([])
            bands[-1].append(column)
    return bands


def _draw_band(columns: Sequence[Column], rows: Sequence[str], cell: int) -> Image.Image:
    captions = [wrap(column.caption, font(CAPTION_SIZE), cell) for column in columns]
    layout = _lay_out(columns, rows, max(map(len, captions)), cell)
    canvas = Image.new("RGB", layout.size, PAPER)
    draw = ImageDraw.Draw(canvas)
    _draw_groups(draw, columns, layout)
    for label, top in zip(rows, layout.tops, strict=True):
        _draw_label(draw, label, top, cell)
    for column, caption, left in zip(columns, captions, layout.lefts, strict=True):
        for image, top in zip(column.pictures, layout.tops, strict=True):
            canvas.paste(enlarge(image, cell), (left, top))
            draw.rectangle((left - 1, top - 1, left + cell, top + cell), outline=RULE)
        _draw_lines(draw, caption, (left, layout.caption_top), CAPTION_SIZE, INK)
    return canvas


def enlarge(image: Tensor, cell: int) -> Image.Image:
    """The picture fitted into a square of `cell` pixels, on white if it is not square itself."""
    source = picture(image)
    scale = cell / max(source.size)
    size = (max(1, round(source.width * scale)), max(1, round(source.height * scale)))
    fitted = source.resize(size, Image.Resampling.LANCZOS)
    square = Image.new("RGB", (cell, cell), PAPER)
    square.paste(fitted, ((cell - size[0]) // 2, (cell - size[1]) // 2))
    return square


def font(size: int) -> Font:
    """Pillow's own font, which is there on every machine."""
    return ImageFont.load_default(size)


@lru_cache(maxsize=1024)
def writable(letter: str) -> str:
    """The letter, or what the font has in its place: without its accent, or a question mark."""
    face = font(CAPTION_SIZE)
    missing = bytes(face.getmask("\uffff"))
    bare = "".join(part for part in normalize("NFKD", letter) if not combining(part))
    return next((form for form in (letter, bare) if form and bytes(face.getmask(form)) != missing), "?")


def wrap(text: str, face: Font, width: int) -> list[str]:
    """Break text into lines of at most `width` pixels; a word that is longer than a line is cut."""
    lines: list[str] = []
    for word in "".join(map(writable, text)).split():
        for part in _cut(word, face, width):
            joined = f"{lines[-1]} {part}" if lines else part
            if lines and face.getlength(joined) <= width:
                lines[-1] = joined
            else:
                lines.append(part)
    return lines


def _cut(word: str, face: Font, width: int) -> list[str]:
    """The word in pieces that each fit into a line."""
    pieces = [""]
    for letter in word:
        if pieces[-1] and face.getlength(pieces[-1] + letter) > width:
            pieces.append("")
        pieces[-1] += letter
    return pieces


def _line(size: int) -> int:
    return round(size * LINE_SPACING)


def _lay_out(columns: Sequence[Column], rows: Sequence[str], caption_lines: int, cell: int) -> _Layout:
    longest = max(font(LABEL_SIZE).getlength(line) for label in rows for line in label.split("\n"))
    left = MARGIN + (round(longest) + 2 * GAP if longest else 0)
    lefts = [left]
    for before, column in pairwise(columns):
        lefts.append(lefts[-1] + cell + (GROUP_GAP if column.group != before.group else GAP))
    heading = _group_lines(columns, cell) * _line(GROUP_SIZE)
    first = heading + GAP if heading else 0
    tops = tuple(first + index * (cell + GAP) for index in range(len(rows)))
    caption_top = tops[-1] + cell + GAP
    height = caption_top + caption_lines * _line(CAPTION_SIZE) + MARGIN
    return _Layout(cell, tuple(lefts), tops, caption_top, (lefts[-1] + cell + MARGIN, height))


def _groups(columns: Sequence[Column]) -> list[tuple[str, int, int]]:
    """Title, index of the first and of the last column, of each run of columns of one group."""
    runs, start = [], 0
    for title, run in groupby(columns, key=lambda column: column.group):
        length = len(list(run))
        runs.append((title, start, start + length - 1))
        start += length
    return runs


def _group_width(first: int, last: int, cell: int) -> int:
    return (last - first + 1) * (cell + GAP) - GAP


def _group_lines(columns: Sequence[Column], cell: int) -> int:
    widths = [(title, _group_width(first, last, cell)) for title, first, last in _groups(columns)]
    return max(len(wrap(title, font(GROUP_SIZE), width)) for title, width in widths)


def _draw_groups(draw: ImageDraw.ImageDraw, columns: Sequence[Column], layout: _Layout) -> None:
    for title, first, last in _groups(columns):
        width = _group_width(first, last, layout.cell)
        lines = wrap(title, font(GROUP_SIZE), width)
        lowest = layout.tops[0] - GAP // 2 - 2
        top = layout.tops[0] - GAP - len(lines) * _line(GROUP_SIZE)
        _draw_lines(draw, lines, (layout.lefts[first], top), GROUP_SIZE, INK)
        if title:
            draw.line((layout.lefts[first], lowest, layout.lefts[first] + width - 1, lowest), MUTED, 1)


def _draw_label(draw: ImageDraw.ImageDraw, label: str, top: int, cell: int) -> None:
    lines = label.split("\n")
    y = top + (cell - len(lines) * _line(LABEL_SIZE)) // 2
    _draw_lines(draw, lines, (MARGIN, y), LABEL_SIZE, INK)


def _draw_lines(
    draw: ImageDraw.ImageDraw,
    lines: Sequence[str],
    at: tuple[int, int],
    size: int,
    colour: tuple[int, int, int],
) -> None:
    for index, line in enumerate(lines):
        draw.text((at[0], at[1] + index * _line(size)), line, colour, font(size))
