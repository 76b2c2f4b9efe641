"""Grids: every picture in its place, every caption inside its column."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from diffusers_erasure.errors import EvaluationError
from diffusers_erasure.evaluation.grid import Column, enlarge, font, make_grid, split_bands, wrap

RED, BLUE = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
RED[0], BLUE[2] = 255, 255


def columns(count: int, group: str = "") -> list[Column]:
    return [Column(f"a picture of number {index}", (RED, BLUE), group) for index in range(count)]


def colours(picture: Image.Image) -> dict[tuple[int, ...], int]:
    found = picture.getcolors(maxcolors=1 << 24)
    assert found is not None
    return {colour: count for count, colour in found}  # type: ignore[misc]


def test_every_picture_is_shown_at_its_size() -> None:
    found = colours(make_grid(columns(3), ["before", "after"], cell=128))
    assert found[(255, 0, 0)] == found[(0, 0, 255)] == 3 * 128 * 128


def test_groups_title_and_footer_take_room() -> None:
    plain = make_grid(columns(3), ["before", "after"])
    titled = make_grid(columns(3), ["before", "after"], title="A title", footer="words " * 60)
    grouped = make_grid(columns(2, "first") + columns(2, "second"), ["before", "after"])
    assert titled.width == plain.width
    assert titled.height > plain.height + 40
    assert grouped.width > plain.width


def test_a_long_grid_goes_on_below() -> None:
    wide = make_grid(columns(8), ["before", "after"], per_band=8)
    high = make_grid(columns(8), ["before", "after"], per_band=4)
    assert high.width < wide.width
    assert high.height > wide.height
    assert colours(high)[(255, 0, 0)] == 8 * 128 * 128


def test_groups_stay_together() -> None:
    bands = split_bands(columns(2, "a") + columns(2, "b") + columns(3, "c"), 5)
    assert [[column.group for column in band] for band in bands] == [["a", "a", "b", "b"], ["c", "c", "c"]]
    assert [len(band) for band in split_bands(columns(7, "a"), 3)] == [3, 3, 1]


@pytest.mark.parametrize(
    "text", ["a drawing of a church on a grey background", "Pneumonoultramicroscopic" * 3]
)
def test_captions_stay_inside_their_column(text: str) -> None:
    face = font(14)
    lines = wrap(text, face, 100)
    assert all(face.getlength(line) <= 100 for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert wrap("", face, 100) == []


def test_what_the_font_lacks_is_replaced() -> None:
    assert wrap("a café, 99 to 4 of 100: 'church'", font(14), 500) == ["a cafe, 99 to 4 of 100: 'church'"]
    assert wrap("→ 犬", font(14), 500) == ["? ?"]


@pytest.mark.parametrize(("shape", "cell"), [((3, 16, 16), 128), ((3, 64, 32), 128), ((3, 512, 512), 128)])
def test_pictures_are_fitted_into_their_cell(shape: tuple[int, ...], cell: int) -> None:
    assert enlarge(torch.zeros(shape, dtype=torch.uint8), cell).size == (cell, cell)


@pytest.mark.parametrize(("count", "rows"), [(0, ["a"]), (2, ["a"]), (2, [])])
def test_what_cannot_be_laid_out_is_refused(count: int, rows: list[str]) -> None:
    with pytest.raises(EvaluationError, match="cannot be laid out"):
        make_grid(columns(count), rows)
