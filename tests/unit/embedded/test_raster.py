"""From SVG to pictures: the styles must look as their names say."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from PIL import Image

from diffusers_erasure.embedded.recipe.raster import (
    GLYPH,
    PICTURE,
    RECOLOURED,
    Pixels,
    place,
    rasterise,
    render_style,
)
from diffusers_erasure.embedded.vocabulary import STYLES
from diffusers_erasure.errors import MissingDependencyError

DARK_BLUE = (24, 52, 110)
PINK = (255, 205, 220)
CIRCLE = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 10 10">'
    '<circle cx="5" cy="5" r="4" fill="#ff0000"/></svg>'
)


@pytest.fixture(scope="module")
def rainbow() -> Image.Image:
    """A glyph of very many colours with a transparent border."""
    ramp = np.linspace(0, 255, GLYPH).astype(np.uint8)
    levels = np.zeros((GLYPH, GLYPH, 4), np.uint8)
    levels[..., 0], levels[..., 1], levels[..., 2] = ramp[None], ramp[:, None], 255 - ramp[None]
    levels[16:-16, 16:-16, 3] = 255
    return Image.fromarray(levels, "RGBA")


def drawn(glyph: Image.Image, style: str, background: tuple[int, int, int] = PINK) -> Pixels:
    """The glyph in the middle of a picture."""
    return render_style([(glyph, 56, 4, 4)], style, background)


def colours(picture: Pixels) -> set[tuple[int, ...]]:
    return {tuple(map(int, pixel)) for pixel in picture.reshape(-1, 3)}


def test_svg_becomes_pixels_with_transparency() -> None:
    glyph = rasterise(CIRCLE)
    assert (glyph.mode, glyph.size) == ("RGBA", (GLYPH, GLYPH))
    assert glyph.getpixel((GLYPH // 2, GLYPH // 2)) == (255, 0, 0, 255)
    assert glyph.getpixel((0, 0))[3] == 0  # type: ignore[index]
    opaque = (np.asarray(glyph)[..., 3] > 127).mean()
    assert opaque == pytest.approx(np.pi * 0.4**2, abs=0.01)


def test_the_missing_rasteriser_is_named_with_the_way_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(
        name: str,
        globals: Mapping[str, object] | None = None,  # noqa: A002
        locals: Mapping[str, object] | None = None,  # noqa: A002
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> object:
        if name == "resvg_py":
            raise ImportError(name)
        return real(name, globals, locals, fromlist or (), level)

    monkeypatch.delitem(sys.modules, "resvg_py", raising=False)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingDependencyError, match=r"diffusers-erasure\[train\]"):
        rasterise(CIRCLE)


@pytest.mark.parametrize("style", sorted({*STYLES, *RECOLOURED}))
def test_every_style_gives_a_picture(rainbow: Image.Image, style: str) -> None:
    picture = drawn(rainbow, style)
    assert picture.shape == (PICTURE, PICTURE, 3)
    assert picture.dtype == np.uint8
    assert not np.array_equal(picture[32, 32], picture[0, 0])


def test_the_background_shows_where_the_glyph_is_transparent(rainbow: Image.Image) -> None:
    picture = drawn(rainbow, "noto")
    assert tuple(picture[0, 0]) == PINK
    assert tuple(picture[8, 8]) == PINK


def test_blueprint_is_white_on_dark_blue_whatever_the_colours(rainbow: Image.Image) -> None:
    picture = drawn(rainbow, "blueprint")
    assert np.array_equal(picture, drawn(rainbow, "blueprint", (255, 255, 255)))
    assert tuple(picture[0, 0]) == DARK_BLUE
    assert tuple(picture[32, 32]) == (255, 255, 255)
    # Only mixtures of the two colours: every channel has come equally far from the blue.
    far = (picture.astype(float) - DARK_BLUE) / (255 - np.array(DARK_BLUE))
    assert np.ptp(far, axis=-1).max() < 0.02


def test_sepia_is_brown_on_cream_whatever_the_colours(rainbow: Image.Image) -> None:
    picture = drawn(rainbow, "sepia")
    assert np.array_equal(picture[0, 0], drawn(rainbow, "sepia", (0, 0, 0))[0, 0])
    assert all(red >= green >= blue for red, green, blue in colours(picture))
    order = np.asarray(drawn(rainbow, "noto", (255, 255, 255))).astype(float) @ (0.299, 0.587, 0.114)
    toned = picture.astype(float).sum(axis=-1)
    assert np.corrcoef(order.ravel(), toned.ravel())[0, 1] > 0.99, "light stays light"


def test_poster_is_three_inks_on_a_ground_of_its_own(rainbow: Image.Image) -> None:
    flat = Image.fromarray(np.asarray(rainbow).copy(), "RGBA").resize((56, 56), Image.Resampling.NEAREST)
    picture = drawn(flat, "poster")
    assert np.array_equal(picture, drawn(flat, "poster", (0, 0, 0)))
    inner = picture[14:50, 14:50].reshape(-1, 3)
    assert len({tuple(map(int, pixel)) for pixel in inner}) == 3
    assert tuple(map(int, picture[0, 0])) not in {tuple(map(int, pixel)) for pixel in inner}


def test_pixel_is_a_grid_of_four_pixels_with_few_colours(rainbow: Image.Image) -> None:
    picture = drawn(rainbow, "pixel")
    cells = picture.reshape(16, 4, 16, 4, 3)
    assert np.array_equal(cells, np.broadcast_to(cells[:, :1, :, :1], cells.shape))
    assert 4 < len(colours(picture)) <= 14
    assert len(colours(drawn(rainbow, "noto"))) > 1000


def test_several_glyphs_stand_where_they_were_put() -> None:
    glyph = rasterise(CIRCLE)
    picture = render_style([(glyph, 30, 1, 17), (glyph, 30, 33, 17)], "noto", (255, 255, 255))
    red = np.all(picture == (255, 0, 0), axis=-1)
    assert red[32, 16]
    assert red[32, 48]
    assert not red[:, 31:33].any()
    assert not red[:16].any()


def test_a_canvas_is_changed_only_where_the_glyph_lies() -> None:
    canvas = Image.new("RGB", (PICTURE, PICTURE), (0, 0, 0))
    place(canvas, Image.new("RGBA", (GLYPH, GLYPH), (0, 255, 0, 255)), size=10, left=20, top=30)
    green = np.asarray(canvas)[..., 1] == 255
    assert green[30:40, 20:30].all()
    assert green.sum() == 100
