"""SVG to pixels, and glyphs onto backgrounds.

A glyph is kept as RGBA of 128 x 128 so that it can be scaled; a picture is RGB of 64 x 64, 8 bits.
"""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from diffusers_erasure.errors import MissingDependencyError

PICTURE = 64
GLYPH = 128
_PIXEL_GRID = 16
_PIXEL_COLOURS = 14
_BLUEPRINT = (24, 52, 110)
_SEPIA = ((50, 30, 12), (250, 235, 205))
_POSTER = (255, 205, 220)
_INKS = ((40, 30, 140), (220, 40, 90), (255, 170, 60))
RECOLOURED = frozenset({"blueprint", "sepia", "poster"})
"""Styles with colours of their own, on which no background can be asked for."""

Pixels = NDArray[np.uint8]
Colour = tuple[int, int, int]


def rasterise(svg: str, size: int = GLYPH) -> Image.Image:
    """Draw SVG text as an RGBA picture of `size` x `size` pixels.

    Raises:
        MissingDependencyError: resvg_py is not installed.
    """
    try:
        import resvg_py
    except ImportError as error:
        raise MissingDependencyError(
            "drawing SVG needs resvg_py; pip install 'diffusers-erasure[train]'"
        ) from error
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size))
    return Image.open(io.BytesIO(png)).convert("RGBA")


def place(canvas: Image.Image, glyph: Image.Image, *, size: int, left: int, top: int) -> None:
    """Paste `glyph`, scaled to `size` pixels, onto the RGB `canvas`."""
    scaled = glyph.resize(
        (size, size), Image.Resampling.BOX if size < GLYPH // 3 else Image.Resampling.LANCZOS
    )
    canvas.paste(scaled, (left, top), scaled)


def render_style(glyphs: list[tuple[Image.Image, int, int, int]], style: str, background: Colour) -> Pixels:
    """Compose glyphs in a style onto a background.

    Args:
        glyphs: `(glyph, size, left, top)` each, in pixels of the 64-pixel picture.
        style: One of the vocabulary's styles. `blueprint` recolours white on dark blue, `sepia` tones brown,
            `poster` prints three flat inks by brightness on pink, `pixel` coarsens; others are drawn as
            they are.
        background: RGB; ignored by the styles in `RECOLOURED`.

    Returns:
        `(64, 64, 3)` uint8.
    """
    ground = {"blueprint": _BLUEPRINT, "poster": _POSTER, "sepia": (255, 255, 255)}.get(style, background)
    canvas = Image.new("RGB", (PICTURE, PICTURE), ground)
    prepare = {"blueprint": _white, "poster": _print}.get(style)
    for glyph, size, left, top in glyphs:
        place(canvas, prepare(glyph) if prepare else glyph, size=size, left=left, top=top)
    finish = {"pixel": _pixelate, "sepia": _tone}.get(style)
    return np.asarray(finish(canvas) if finish else canvas)


def _white(glyph: Image.Image) -> Image.Image:
    white = Image.new("RGBA", glyph.size, (255, 255, 255, 255))
    white.putalpha(glyph.getchannel("A"))
    return white


def _tone(picture: Image.Image) -> Image.Image:
    dark, light = _SEPIA
    return ImageOps.colorize(ImageOps.grayscale(picture), dark, light)


def _print(glyph: Image.Image) -> Image.Image:
    """Brightness in as many equal steps as there are inks."""
    steps = np.asarray(ImageOps.grayscale(glyph.convert("RGB"))).astype(int) * len(_INKS) // 256
    printed = Image.fromarray(np.array(_INKS, np.uint8)[steps])
    printed.putalpha(glyph.getchannel("A"))
    return printed


def _pixelate(picture: Image.Image) -> Image.Image:
    small = picture.resize((_PIXEL_GRID, _PIXEL_GRID), Image.Resampling.BOX)
    few = small.quantize(colors=_PIXEL_COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    return few.convert("RGB").resize((PICTURE, PICTURE), Image.Resampling.NEAREST)
