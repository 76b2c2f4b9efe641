"""Finished items on disk, so that a run that is interrupted does none of them again.

One JSON file per item, with its first picture beside it, named by a digest of everything that the item
depends on: weights of base and erasure, sampling, prompts and seeds, judges, and the item's own settings.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from diffusers_erasure.artifacts.manifest import canonical_json
from diffusers_erasure.diffusion.pictures import picture, png_bytes, read_picture
from diffusers_erasure.durable import write_whole

from .reactivation_report import ReactivationRow

logger = logging.getLogger(__name__)

FORMAT = 1


@dataclass(frozen=True)
class MeasuredItem:
    """One finished item.

    Attributes:
        row: What a report says of it.
        image: Its first picture, `(3, height, width)` uint8; None where there is none.
    """

    row: ReactivationRow
    image: Tensor | None


@dataclass(frozen=True)
class ItemStore:
    """Folder of finished items.

    Attributes:
        folder: Made when the first item is kept.
        identity: What all items of this run depend on, as JSON values.
    """

    folder: Path
    identity: Mapping[str, Any]

    def path(self, key: str, settings: Mapping[str, Any]) -> Path:
        """Where an item lies, or would.

        Args:
            key: Name of the item.
            settings: What it depends on beside the rest.
        """
        content = {"format": FORMAT, "run": dict(self.identity), "item": key, "settings": dict(settings)}
        return self.folder / f"{key}-{hashlib.sha256(canonical_json(content)).hexdigest()[:16]}.json"

    def read(self, key: str, settings: Mapping[str, Any]) -> MeasuredItem | None:
        """A finished item, or None if it has to be measured."""
        path = self.path(key, settings)
        try:
            row = ReactivationRow.model_validate_json(path.read_text(encoding="utf-8"))
            image = path.with_suffix(".png")
            return MeasuredItem(row, read_picture(image) if image.exists() else None)
        except FileNotFoundError:
            return None
        except (ValidationError, UnicodeDecodeError, OSError) as error:
            logger.warning("the kept item %s cannot be read (%s); it is measured again", path, error)
            return None

    def keep(self, found: MeasuredItem, settings: Mapping[str, Any]) -> None:
        """Write an item: its picture first, so that an item on disk is complete."""
        path = self.path(found.row.key, settings)
        if found.image is not None:
            write_whole(path.with_suffix(".png"), png_bytes(picture(found.image)))
        write_whole(path, found.row.model_dump_json(indent=1).encode())
