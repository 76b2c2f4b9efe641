"""The folder in which a run keeps the pictures that are finished."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from diffusers_erasure.diffusion.pictures import picture, png_bytes, read_picture
from diffusers_erasure.durable import write_whole

logger = logging.getLogger(__name__)


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
            return read_picture(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            logger.warning("the kept picture %s cannot be read (%s); it is drawn again", path, error)
            return None

    def keep(self, prompt: str, seed: int, image: Tensor) -> None:
        """Write one picture; a reader sees all of it or nothing."""
        path = self.path(prompt, seed)
        write_whole(path, png_bytes(picture(image)))
