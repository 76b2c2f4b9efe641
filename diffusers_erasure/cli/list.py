"""List the artifacts in a folder and below it; `list embedded` shows those that ship with the package.

The methods that can train one are listed by `diffusers-erasure train --help`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.markup import escape
from rich.table import Table

from diffusers_erasure.artifacts.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, Manifest, parse_manifest
from diffusers_erasure.embedded import EMBEDDED_MODEL_ID, erasures_folder
from diffusers_erasure.errors import ArtifactError, ArtifactNotFoundError

from .console import CommandConsole
from .flags import read_flags

MAX_DEPTH = 6
CONCEPTS_WIDTH = 40
WIDEST = 2**16
"""Columns that a line may take; the terminal breaks it where it has fewer."""


@dataclass(frozen=True)
class ListConfig:
    """Where to look."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="[FOLDER]")] = Path()
    """folder to look in, and below; `embedded`: what ships with the package"""


def main(argv: Sequence[str]) -> int:
    """Run `diffusers-erasure list`."""
    config = read_flags(ListConfig, argv, "diffusers-erasure list", __doc__)
    shipped = str(config.folder) == EMBEDDED_MODEL_ID
    folder = erasures_folder() if shipped else config.folder
    if not folder.is_dir():
        raise ArtifactNotFoundError(
            f"there is no folder {folder}; expected one that holds artifacts; give its path"
        )
    console = CommandConsole()
    table = Table(box=None, pad_edge=False, collapse_padding=True)
    for heading in ("folder", "method", "concepts", "components", "evaluated", "digest"):
        # words are typed elsewhere, so they are shown whole; only a long list of concepts takes more lines
        many = heading == "concepts"
        table.add_column(
            heading, no_wrap=not many, overflow="fold", max_width=CONCEPTS_WIDTH if many else None
        )
    for path in sorted(find_manifests(folder)):
        name = str(path.parent.relative_to(folder))
        table.add_row(*map(escape, _row(f"{EMBEDDED_MODEL_ID}/{name}" if shipped else name, path)))
    if table.row_count:
        needed = console.measure(table, options=console.options.update(max_width=WIDEST)).maximum
        CommandConsole(width=max(console.width, needed)).print(table)
    else:
        console.print(
            f"no artifacts in {config.folder}; `diffusers-erasure train --help` lists the methods to make one"
        )
    return 0


def find_manifests(folder: Path, depth: int = 0) -> Iterator[Path]:
    """Manifests in a folder and below; hidden folders and links to folders are left out."""
    if (folder / MANIFEST_NAME).is_file():
        yield folder / MANIFEST_NAME
    if depth < MAX_DEPTH:
        for below in folder.iterdir():
            if below.is_dir() and not below.is_symlink() and not below.name.startswith("."):
                yield from find_manifests(below, depth + 1)


def _row(where: str, path: Path) -> tuple[str, ...]:
    try:
        manifest = _read(path)
    except ArtifactError as error:
        return (where, f"unreadable: {type(error).__name__}", "", "", "", "")
    return (
        where,
        manifest.method,
        ", ".join(manifest.concept_names),
        ", ".join(manifest.components),
        "yes" if manifest.evaluation else "no",
        manifest.digest[:8],
    )


def _read(path: Path) -> Manifest:
    with path.open("rb") as file:
        return parse_manifest(file.read(MAX_MANIFEST_BYTES + 1), origin=str(path))
