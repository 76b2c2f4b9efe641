"""What lies in a cell belongs together: the artifact that its variant says, and reports of that artifact.

A folder can hold less than that. A variant's flags were changed after it was trained; or an artifact was
replaced, and the reports beside it are of the one before. Figures of either would be told as what they are
not, so such a cell is refused, with what to delete.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from diffusers_erasure.artifacts.manifest import MANIFEST_NAME, Manifest, parse_manifest
from diffusers_erasure.errors import ConfigError

from .cells import Cell

SettingsOf = Callable[[Cell], Mapping[str, Any]]
"""The settings that a cell's command comes to and that an artifact records, as JSON values."""
MOST_SHOWN = 3
NO_FACTS: Mapping[str, tuple[Any, Any]] = MappingProxyType({})


def read_manifest(cell: Cell, settings_of: SettingsOf) -> Manifest:
    """The manifest of a cell's artifact, which must be trained as its variant says.

    Where files lie is recorded in no artifact, so it is not compared. Neither is a setting that the artifact
    does not record: it came later, with what was done before as its default.

    Raises:
        ArtifactError: The file is no manifest.
        ConfigError: It was trained by another method, with another seed or with other settings.
    """
    file = cell.artifact / MANIFEST_NAME
    manifest = parse_manifest(file.read_bytes(), origin=str(file))
    found = {name: record.value for name, record in manifest.settings.items()}
    facts = {"method": (manifest.method, cell.variant.method), "seed": (manifest.seed, cell.seed)}
    if other := other_settings(cell, found, settings_of, facts):
        raise ConfigError(
            f"{cell}: the artifact in {cell.artifact} was trained otherwise than its variant says: {other}; "
            f"expected what {cell.variant.slug} stands for now; delete {cell.folder} and run the benchmark "
            "again"
        )
    return manifest


def other_settings(
    cell: Cell,
    found: Mapping[str, Any],
    settings_of: SettingsOf,
    facts: Mapping[str, tuple[Any, Any]] = NO_FACTS,
) -> str:
    """In what a training differs from what its cell's variant says; empty if in nothing.

    Args:
        cell: Whose it is said to be.
        found: Its recorded settings.
        settings_of: The settings that the cell's command comes to.
        facts: What else is compared: what was found and what is expected.
    """
    asked = {name: (found[name], value) for name, value in settings_of(cell).items() if name in found}
    other = [f"{name} {was!r}, not {now!r}" for name, (was, now) in {**facts, **asked}.items() if was != now]
    more = f" and {len(other) - MOST_SHOWN} more" if len(other) > MOST_SHOWN else ""
    return f"{', '.join(other[:MOST_SHOWN])}{more}"


def check_digest(cell: Cell, manifest: Manifest, report: Path, digest: str) -> None:
    """Refuse a report of another artifact.

    Args:
        cell: Where both lie.
        manifest: Of the artifact.
        report: The file.
        digest: Of the artifact that it was made of.

    Raises:
        ConfigError: It is another one.
    """
    if digest != manifest.digest:
        raise ConfigError(
            f"{cell}: {report} is of the erasure {digest[:16]}; expected {manifest.digest[:16]}, which lies "
            f"in {cell.artifact}; delete {report.parent} and run the benchmark again"
        )
