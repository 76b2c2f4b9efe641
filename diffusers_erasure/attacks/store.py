"""Finished outcomes on disk, so that a run that is killed goes on where it was.

One JSON file per prompt, with its picture beside it, named by a digest of everything that the outcome depends
on: the weights, sampling and judge of the target (and of the base), the attack with its version and settings,
the prompt and its seed, and the versions of the libraries. Another artifact or another setting therefore
never meets these files, and processes that share the folder do not meet each other's. Each file is written
whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from diffusers_erasure.artifacts.manifest import canonical_json
from diffusers_erasure.diffusion.pictures import picture, png_bytes, read_picture
from diffusers_erasure.durable import write_whole

from .base import AttackedPrompt, AttackOutcome

logger = logging.getLogger(__name__)

FORMAT = 1
_UNSTORED = ("picture",)


@dataclass(frozen=True)
class OutcomeStore:
    """Folder of finished outcomes.

    Attributes:
        folder: Made when the first outcome is kept.
        identity: What all outcomes of this run depend on, as JSON values.
    """

    folder: Path
    identity: Mapping[str, Any]

    def path(self, item: AttackedPrompt) -> Path:
        """Where the outcome of an item lies, or would."""
        content = {"format": FORMAT, "run": dict(self.identity), "item": asdict(item)}
        return self.folder / f"{hashlib.sha256(canonical_json(content)).hexdigest()[:40]}.json"

    def read(self, item: AttackedPrompt) -> AttackOutcome | None:
        """The outcome of an item, or None if it has to be attacked; failed ones are attacked again."""
        path = self.path(item)
        try:
            outcome = outcome_from_json(path.read_bytes())
            kept = path.with_suffix(".png")
            image = read_picture(kept) if kept.exists() else None
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.warning("the kept outcome %s cannot be read (%s); it is made again", path, error)
            return None
        if outcome.failed is not None:
            return None
        return replace(outcome, picture=image)

    def keep(self, item: AttackedPrompt, outcome: AttackOutcome) -> None:
        """Write an outcome: its picture first, so that an outcome on disk is complete."""
        path = self.path(item)
        if outcome.picture is not None:
            write_whole(path.with_suffix(".png"), png_bytes(picture(outcome.picture)))
        write_whole(path, outcome_to_json(outcome))

    def forget(self, item: AttackedPrompt) -> None:
        """Remove an outcome that must not be used."""
        path = self.path(item)
        path.unlink(missing_ok=True)
        path.with_suffix(".png").unlink(missing_ok=True)


def outcome_to_json(outcome: AttackOutcome) -> bytes:
    """One outcome as JSON, without its picture."""
    values = {name: value for name, value in _shallow(outcome).items() if name not in _UNSTORED}
    values["item"] = asdict(outcome.item)
    return (json.dumps(values, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def outcome_from_json(content: bytes) -> AttackOutcome:
    """Read what `outcome_to_json` wrote.

    Raises:
        ValueError: It is no JSON.
        TypeError: It has other fields.
    """
    values = json.loads(content)
    values["item"] = AttackedPrompt(**values["item"])
    if values.get("ids") is not None:
        values["ids"] = tuple(values["ids"])
    return AttackOutcome(**values)


def _shallow(outcome: AttackOutcome) -> dict[str, Any]:
    return {one.name: getattr(outcome, one.name) for one in fields(outcome)}
