"""Concepts that the embedded judges cannot see are refused before anything is loaded that takes long."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from diffusers_erasure.concepts import ConceptKind, resolve_concepts
from diffusers_erasure.errors import ArtifactError, EvaluationError

if TYPE_CHECKING:
    from diffusers_erasure.evaluation.embedded_prompts import NamedConcept

EMBEDDED = "embedded"


def check_concepts(
    source: str, *, instead: str, named: Sequence[str] = (), kind: ConceptKind | None = None
) -> None:
    """Refuse concepts that are not in the embedded vocabulary, by the manifest alone: weights are not read.

    Args:
        source: Folder or Hub id of the artifact; another one's concepts are found when it is loaded.
        instead: Command with a judge that can see them.
        named: Concepts that the user named, in place of the erased ones.
        kind: Kind of those that the vocabulary does not know.

    Raises:
        EvaluationError: The embedded vocabulary does not know a concept.
    """
    from diffusers_erasure.evaluation.embedded_prompts import find_targets

    concepts = tuple(resolve_concepts(named, kind=kind)) if named else _erased(source)
    try:
        find_targets(concepts)
    except EvaluationError as error:
        raise EvaluationError(f"{error}: `{instead}`") from error


def judged_by_embedded(judge: str) -> bool:
    """Whether the judge that was asked for is of the embedded family."""
    return judge.partition("#")[0].partition(":")[0] == EMBEDDED


def _erased(source: str) -> tuple[NamedConcept, ...]:
    """What the manifest names; nothing where there is none that can be read."""
    from diffusers_erasure.artifacts.door import read_manifest, resolve_source

    with suppress(ArtifactError):  # what is wrong with the artifact itself, loading it says
        manifest = read_manifest(resolve_source(source))
        return () if manifest is None else manifest.concepts
    return ()
