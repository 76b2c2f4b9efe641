"""Check an artifact's files, and what it does to its base model.

Alone, the bytes, names, shapes and values are compared with the manifest. With a base model, the erasure is
put on it in memory, and the fingerprints and the canary are compared too. Exit code 0: all agree; 1:
something does not.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.markup import escape

from diffusers_erasure.errors import ArtifactError, ErasureStateError

from .opening import ArtifactSource


@dataclass(frozen=True)
class VerifyConfig(ArtifactSource):
    """What to check."""

    pretrained_model_name_or_path: Annotated[str | None, tyro.conf.arg(aliases=["--base"])] = None
    """base model to put it on in memory; `embedded` for the embedded pipeline"""


def main(argv: Sequence[str]) -> int:
    """Run `diffusers-erasure verify`."""
    config = tyro.cli(VerifyConfig, args=list(argv), prog="diffusers-erasure verify", description=__doc__)
    console = Console()
    try:
        return _verify(config, console)
    except (ArtifactError, ErasureStateError) as error:
        console.print(f"[red]not verified[/red]: {escape(str(error))}")
        return 1


def _verify(config: VerifyConfig, console: Console) -> int:
    from diffusers_erasure.artifacts.apply import load_erasure
    from diffusers_erasure.artifacts.verify import ErasureState, verify_erasure

    artifact = config.open()
    console.print(f"bytes, names and values agree with the manifest: {artifact.digest[:16]}", highlight=False)
    _tell_attachments(Path(config.artifact, config.subfolder or ""), artifact.manifest.attachments, console)
    if config.pretrained_model_name_or_path is None:
        return 0
    from diffusers_erasure.pipelines.base import load_base_pipeline

    pipe = load_base_pipeline(config.pretrained_model_name_or_path)
    load_erasure(pipe, artifact)
    report = verify_erasure(pipe, artifact)
    colour = "green" if report.state is ErasureState.VERIFIED else "red"
    console.print(f"[{colour}]{report.state.value}[/{colour}]: {escape(report.message)}")
    for part, found in report.components.items():
        console.print(f"  {part}: expected {found.expected[:16]}, found {found.found[:16]}", highlight=False)
    for note in report.notes:
        console.print(f"  [yellow]note[/yellow]: {escape(note)}")
    return 0 if report.state is ErasureState.VERIFIED else 1


def _tell_attachments(folder: Path, attachments: dict[str, str], console: Console) -> None:
    """Documents are not part of the erasure; one that was changed is worth a line, not a failure."""
    for name, digest in attachments.items():
        path = folder / name
        if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            console.print(f"  [yellow]note[/yellow]: {escape(name)} was changed after it was attached")
