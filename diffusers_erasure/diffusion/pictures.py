"""One picture: as a tensor, as PIL has it, and as a PNG file."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def picture(image: Tensor) -> Image.Image:
    """Turn `(3, height, width)` uint8 into a PIL picture."""
    return Image.fromarray(image.permute(1, 2, 0).cpu().contiguous().numpy())


def png_bytes(image: Image.Image) -> bytes:
    """The picture as a PNG file's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def read_picture(path: Path) -> Tensor:
    """Read a picture file as `(3, height, width)` uint8.

    Raises:
        FileNotFoundError: There is none.
        OSError: It is no picture, or damaged.
    """
    with Image.open(path) as kept:
        pixels = np.array(kept.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
