"""What lies beside an artifact and belongs to it: reports and pictures that its manifest names."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from diffusers_erasure.artifacts.card_marks import REPORT_NAMES
from diffusers_erasure.artifacts.manifest import MANIFEST_NAME, Manifest
from diffusers_erasure.errors import ArtifactIntegrityError, ArtifactMismatchError
from diffusers_erasure.evaluation.reactivation_report import ReactivationReport, read_reactivation
from diffusers_erasure.evaluation.report import EvaluationReport, read_report

EVALUATION_NAME, REACTIVATION_NAME = REPORT_NAMES


@dataclass(frozen=True)
class AttachedReports:
    """What was measured, as far as it lies beside an artifact.

    Attributes:
        report: The evaluation.
        reactivation: What brings the concept back.
        pictures: Names of attached pictures.
        sources: sha256 of each of these reports, and the manifest's digest.
    """

    report: EvaluationReport | None = None
    reactivation: ReactivationReport | None = None
    pictures: tuple[str, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)


def read_measured(root: Path, manifest: Manifest) -> AttachedReports:
    """The documents that the manifest names, each compared with the bytes that were attached."""
    attached = manifest.attachments
    report = reactivation = None
    if EVALUATION_NAME in attached:
        _check_attached(root, EVALUATION_NAME, manifest)
        report = read_report(root / EVALUATION_NAME)
        _check_same(report.erasure.digest, manifest, EVALUATION_NAME)
    if REACTIVATION_NAME in attached:
        _check_attached(root, REACTIVATION_NAME, manifest)
        reactivation = read_reactivation(root / REACTIVATION_NAME)
        _check_same(reactivation.erasure.digest, manifest, REACTIVATION_NAME)
    return AttachedReports(
        report,
        reactivation,
        pictures=tuple(name for name in attached if (root / name).is_file()),
        sources={
            MANIFEST_NAME: manifest.digest,
            **{name: attached[name] for name in REPORT_NAMES if name in attached},
        },
    )


def _check_attached(root: Path, name: str, manifest: Manifest) -> None:
    path = root / name
    expected = manifest.attachments[name]
    found = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "missing"
    if found != expected:
        raise ArtifactIntegrityError(
            f"{path} is not the document that was attached (sha256 {found[:16]}, expected {expected[:16]}); "
            "a card is rendered from attached documents only; attach it again, as `diffusers-erasure "
            "evaluate --attach` does"
        )


def _check_same(digest: str, manifest: Manifest, name: str) -> None:
    if digest != manifest.digest:
        raise ArtifactMismatchError(
            f"{name} is about the artifact {digest[:16]}, and this one is {manifest.digest[:16]}; expected a "
            "report about this artifact; evaluate it and attach the result"
        )
