"""Make one artifact of several of TRCE's stage 1, without their prompts.

    diffusers-erasure compose dog-trce church-trce --output_dir dog-church-trce

Each artifact must have been trained by `train trce --stages 1` from the same base model, with the same
weights and the same retain set. The result is what a joint run would have given, and can be composed again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from . import console
from .flags import otherwise, read_flags
from .inspect import size
from .training_numbers import shown_numbers

if TYPE_CHECKING:
    from diffusers_erasure.artifacts.artifact import Artifact
    from diffusers_erasure.training.config import Progress


@dataclass(frozen=True)
class ComposeArguments:
    """The parts, their base model, and where the result goes."""

    artifacts: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="ARTIFACT ARTIFACT ...", help_behavior_hint="(required)"),
    ]
    """folders or Hub ids of the artifacts, at least two"""
    output_dir: Path
    """folder for the artifact"""
    pretrained_model_name_or_path: str | None = None
    """base model of all parts: a folder, a Hub id, or `embedded`; the artifacts' unless given"""
    base_revision: str | None = None
    """branch, tag or commit of the base model"""
    retain_set: Annotated[str, otherwise("the parts' own")] = ""
    """what stays: objects, classes, scenes, styles, or the file that the parts were trained with"""
    prior_file: Annotated[str, otherwise("none")] = ""
    """file for the retain set's statistics, which every concept of one base can use"""
    artifact_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """precision in which the change is stored"""
    overwrite: bool = False
    """replace output_dir if it exists"""
    token: str | None = None
    """Hub token"""
    cache_dir: str | None = None
    """where downloads are kept"""
    local_files_only: bool = False
    """use only what is in the cache"""


def main(argv: Sequence[str]) -> int:
    """Run `diffusers-erasure compose`."""
    arguments = read_flags(ComposeArguments, argv, "diffusers-erasure compose", __doc__)
    from diffusers_erasure.artifacts.store import check_target, save_artifact

    check_target(arguments.output_dir, overwrite=arguments.overwrite)
    numbers: dict[str, float] = {}
    artifact = _compose(arguments, numbers)
    folder = save_artifact(artifact, arguments.output_dir, overwrite=arguments.overwrite)
    _summarise(arguments, artifact, numbers, folder)
    return 0


def _compose(arguments: ComposeArguments, numbers: dict[str, float]) -> Artifact:
    from diffusers_erasure.pipelines.base import load_base_pipeline
    from diffusers_erasure.training.compose import compose_trce, load_part
    from diffusers_erasure.training.compose_parts import check_parts

    parts = [
        load_part(
            source,
            token=arguments.token,
            cache_dir=arguments.cache_dir,
            local_files_only=arguments.local_files_only,
        )
        for source in arguments.artifacts
    ]
    check_parts(parts, retain_set=arguments.retain_set)
    named, given = parts[0].manifest.base, arguments.pretrained_model_name_or_path
    pipe = load_base_pipeline(
        given or named.id,
        revision=arguments.base_revision or (None if given else named.revision),
        token=arguments.token,
        cache_dir=arguments.cache_dir,
        local_files_only=arguments.local_files_only,
        safety_checker=None,
        requires_safety_checker=False,
    )
    with console.progress("compose") as report:

        def show(progress: Progress) -> None:
            numbers.update(progress.values)
            report(progress.done, progress.total, progress.phase)

        return compose_trce(
            pipe,
            parts,
            retain_set=arguments.retain_set,
            prior_file=arguments.prior_file,
            artifact_dtype=arguments.artifact_dtype,
            progress=show,
        )


def _summarise(
    arguments: ComposeArguments, artifact: Artifact, numbers: dict[str, float], folder: Path
) -> None:
    written = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    console.show_facts(
        {
            "composed of": ", ".join(arguments.artifacts),
            "base model": artifact.manifest.base.id,
            "concepts": ", ".join(
                f"{concept.name} → {concept.anchor or '(nothing)'}" for concept in artifact.manifest.concepts
            ),
            **shown_numbers(numbers),
            "saved": f"{folder} ({size(written)})",
        }
    )
