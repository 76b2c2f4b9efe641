"""The banks of pictures: what shows none of the vocabulary, and that a bank is whole or absent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffusers_erasure.embedded.recipe import dataset
from diffusers_erasure.embedded.recipe.artwork import SOURCES
from diffusers_erasure.embedded.recipe.raster import PICTURE

SHOWN = ("bus", "bus-stop", "cats", "scissors", "cactus", "mrs-claus", "church")
FREE = ("abacus", "dna", "receipt")


class FakeFamily:
    """A family that draws the vocabulary, under plural and compound names too, and other things."""

    names = (*SHOWN, *FREE)

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def svg(self, name: str) -> str:
        return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 8"><!-- {name} --></svg>'


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the drawings that were rasterised, in order; nothing is downloaded."""
    names: list[str] = []

    def rasterise(svg: str) -> Image.Image:
        names.append(svg.split("<!-- ")[1].split(" -->", maxsplit=1)[0])
        return Image.new("RGBA", (64, 64), (200, 30, 30, 255))

    monkeypatch.setattr(dataset, "Family", FakeFamily)
    monkeypatch.setattr(dataset, "rasterise", rasterise)
    return names


def test_no_drawing_of_the_vocabulary_is_called_other(drawn: list[str], tmp_path: Path) -> None:
    bank = dataset.build_other(
        {name: tmp_path for name in SOURCES}, tmp_path, seed=0, progress=lambda *_: None
    )
    assert set(drawn) == set(FREE)
    assert bank.shape == (len(drawn), PICTURE, PICTURE, 3)
    assert bank.dtype == np.uint8


def test_a_bank_that_was_drawn_is_read_back(drawn: list[str], tmp_path: Path) -> None:
    artwork = {name: tmp_path for name in SOURCES}
    first = np.array(dataset.build_other(artwork, tmp_path, seed=0, progress=lambda *_: None))
    drawn.clear()
    again = dataset.build_other(artwork, tmp_path, seed=0, progress=lambda *_: None)
    assert not drawn
    assert np.array_equal(first, again)
    assert [path.name for path in tmp_path.iterdir()] == ["other.npy"]
