"""SVG to pixels, and glyphs onto backgrounds.

A glyph is kept as RGBA of 128 x 128 so that it can be scaled; a picture is RGB of 64 x 64, 8 bits.
"""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffusers_erasure.errors import MissingDependencyError

PICTURE = 64
GLYPH = 128
_PIXEL_GRID = 16
_PIXEL_COLOURS = 14
_BLUEPRINT = (24, 52, 110)

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
        style: One of the vocabulary's styles; `blueprint` recolours white on dark blue, `pixel` coarsens.
        background: RGB; ignored by `blueprint`.

    Returns:
        `(64, 64, 3)` uint8.
    """
    canvas = Image.new("RGB", (PICTURE, PICTURE), _BLUEPRINT if style == "blueprint" else background)
    for glyph, size, left, top in glyphs:
        place(canvas, _white(glyph) if style == "blueprint" else glyph, size=size, left=left, top=top)
    return np.asarray(_pixelate(canvas) if style == "pixel" else canvas)


def _white(glyph: Image.Image) -> Image.Image:
    white = Image.new("RGBA", glyph.size, (255, 255, 255, 255))
    white.putalpha(glyph.getchannel("A"))
    return white


def _pixelate(picture: Image.Image) -> Image.Image:
    small = picture.resize((_PIXEL_GRID, _PIXEL_GRID), Image.Resampling.BOX)
    few = small.quantize(colors=_PIXEL_COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    return few.convert("RGB").resize((PICTURE, PICTURE), Image.Resampling.NEAREST)
