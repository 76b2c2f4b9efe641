"""Pictures between tensors, PNG files and the folder in which a run keeps those that are finished."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

logger = logging.getLogger(__name__)


def picture(image: Tensor) -> Image.Image:
    """Turn `(3, height, width)` uint8 into a PIL picture."""
    return Image.fromarray(image.permute(1, 2, 0).cpu().contiguous().numpy())


def png_bytes(image: Image.Image) -> bytes:
    """The picture as a PNG file's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a run that is killed, sees the old bytes or the new ones."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    partial.write_bytes(content)
    partial.replace(path)


class PictureCache:
    """Folder of finished pictures, each named by what it depends on: weights, prompt, seed and settings.

    Args:
        folder: Created when the first picture is kept.
        identity: Everything that all pictures of this cache have in common.
    """

    def __init__(self, folder: Path, identity: Mapping[str, object]) -> None:
        self._folder = folder
        self._identity = dict(identity)

    def path(self, prompt: str, seed: int) -> Path:
        """Where the picture of this prompt and seed lies, or would."""
        content = json.dumps({**self._identity, "prompt": prompt, "seed": seed}, sort_keys=True)
        return self._folder / f"{hashlib.sha256(content.encode()).hexdigest()[:40]}.png"

    def read(self, prompt: str, seed: int) -> Tensor | None:
        """The picture, `(3, height, width)` uint8, or None if it has to be drawn."""
        path = self.path(prompt, seed)
        try:
            with Image.open(path) as kept:
                pixels = np.array(kept.convert("RGB"))
        except FileNotFoundError:
            return None
        except (UnidentifiedImageError, OSError) as error:
            logger.warning("the kept picture %s cannot be read (%s); it is drawn again", path, error)
            return None
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()

    def keep(self, prompt: str, seed: int, image: Tensor) -> None:
        """Write one picture; a reader sees all of it or nothing."""
        path = self.path(prompt, seed)
        write_atomically(path, png_bytes(picture(image)))
