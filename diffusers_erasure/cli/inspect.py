"""Show all of an artifact: manifest, components, settings, evaluation, attacks, signature, files.

    diffusers-erasure inspect outputs/church-uce
    diffusers-erasure inspect org/church-uce --json

Its files are checked as for loading. Of a repository on the Hub the documents are fetched to say how large
they are and whether they are those that were attached. `verify` checks a signature; here it is only shown.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from diffusers_erasure.artifacts.manifest import Manifest
from diffusers_erasure.errors import EvaluationError, SignatureError

from .console import CommandConsole, warn
from .flags import read_flags
from .opening import ArtifactSource

if TYPE_CHECKING:
    from diffusers_erasure.artifacts.files import FileRecord
    from diffusers_erasure.artifacts.hub import Source
    from diffusers_erasure.artifacts.signature import Signature
    from diffusers_erasure.evaluation.report import EvaluationReport

REPORT_NAME = "evaluation.json"


@dataclass(frozen=True)
class InspectArguments(ArtifactSource):
    """What to show."""

    json: bool = False
    """print one JSON object in place of tables"""


def main(argv: Sequence[str]) -> int:
    """Run `diffusers-erasure inspect`."""
    from diffusers_erasure.artifacts.files import file_records

    source = read_flags(InspectArguments, argv, "diffusers-erasure inspect", __doc__)
    artifact = source.open()
    manifest, place = artifact.manifest, source.place(artifact.commit)
    files, signature = file_records(place, manifest), _signature(place)
    report = _report(place, manifest)
    if source.json:
        content = as_json(manifest, files, signature, report)
        content["source"] = {"place": source.artifact, "commit": artifact.commit}
        sys.stdout.write(json.dumps(content, indent=2) + "\n")
        return 0
    console = CommandConsole()
    for table in tables(manifest):
        console.print(table)
    if report is not None:
        from diffusers_erasure.evaluation.tables import report_table

        console.print(report_table(report))
    console.print(_signed(signature))
    console.print(_files(files))
    return 0


def as_json(
    manifest: Manifest,
    files: Sequence[FileRecord],
    signature: Signature | None,
    report: EvaluationReport | None,
) -> dict[str, Any]:
    """Everything that is shown, for programs."""
    return {
        "digest": manifest.digest,
        "manifest": manifest.model_dump(mode="json"),
        "files": [asdict(record) for record in files],
        "signature": None if signature is None else signature.model_dump(mode="json"),
        "evaluation": None if report is None else report.model_dump(mode="json"),
    }


def tables(manifest: Manifest) -> list[RenderableType]:
    """The manifest as tables; those that would be empty are left out."""
    found: list[RenderableType] = [_summary(manifest), _concepts(manifest), _components(manifest)]
    if manifest.settings:
        found.append(_settings(manifest))
    found.append(_evaluation(manifest))
    return found


def size(number: int) -> str:
    """Bytes as people read them."""
    if number < 10**6:
        return f"{number / 10**3:.1f} kB"
    return f"{number / 10**6:.1f} MB" if number < 10**9 else f"{number / 10**9:.2f} GB"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", show_header=len(columns) > 2)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _summary(manifest: Manifest) -> Table:
    table = _table("Erasure", "", "")
    revision = f" at {manifest.base.revision}" if manifest.base.revision else ""
    steps = f"{manifest.steps} steps" if manifest.steps else "closed form"
    known = manifest.known_seed is not None
    run = f"{steps}, seed {manifest.seed}" if known else "steps and seed of the training unknown"
    rows = {
        "method": f"{manifest.method} {manifest.method_version} ({run})",
        "base": f"{manifest.base.id}{revision}",
        "digest": manifest.digest,
        "created": manifest.created,
        "made with": ", ".join(f"{name} {version}" for name, version in manifest.versions.items()),
        "format": str(manifest.format_version),
    }
    for name, value in rows.items():
        table.add_row(name, escape(value))
    return table


def _concepts(manifest: Manifest) -> Table:
    table = _table("Concepts", "concept", "kind", "synonyms", "anchor", "members")
    for concept in manifest.concepts:
        members = ", ".join(member.name for member in concept.members)
        synonyms = ", ".join(concept.synonyms)
        anchor = concept.anchor or "(unconditional)"
        table.add_row(*map(escape, (concept.name, concept.kind, synonyms, anchor, members)))
    return table


def _components(manifest: Manifest) -> Table:
    table = _table("Components", "component", "form", "tensors", "edited weights", "size", "base", "erased")
    for name, spec in manifest.components.items():
        table.add_row(
            name,
            spec.form.replace("_", " "),
            f"{len(spec.tensors)} ({', '.join(sorted({tensor.dtype for tensor in spec.tensors}))})",
            str(len(spec.targets or spec.tensors)),
            size(sum(tensor.num_bytes for tensor in spec.tensors)),
            spec.base_fingerprint[:12],
            spec.erased_fingerprint[:12],
        )
    return table


def _settings(manifest: Manifest) -> Table:
    table = _table("Settings", "setting", "value", "meaning")
    for name, setting in manifest.settings.items():
        table.add_row(escape(name), escape(str(setting.value)), escape(setting.meaning))
    return table


def _evaluation(manifest: Manifest) -> Table:
    table = _table("Evaluation", "", "")
    for name, value in (manifest.evaluation or {"measured": "nothing yet"}).items():
        table.add_row(escape(name), escape(str(value)))
    return table


def _signature(place: Source) -> Signature | None:
    """What the signature says; one that cannot be read is told and left out."""
    from diffusers_erasure.artifacts.signature import SIGNATURE_NAME, parse_signature
    from diffusers_erasure.artifacts.trusting import read_signature

    data = read_signature(place)
    if data is None:
        return None
    try:
        return parse_signature(data, origin=place.describe(SIGNATURE_NAME))
    except SignatureError as error:
        warn(str(error))
        return None


def _report(place: Source, manifest: Manifest) -> EvaluationReport | None:
    """The attached report with its attacks; one that is not what was attached is told and left out."""
    from diffusers_erasure.artifacts.files import FileState, document_records
    from diffusers_erasure.evaluation.report import read_report

    wanted = manifest.model_copy(
        update={"attachments": {k: v for k, v in manifest.attachments.items() if k == REPORT_NAME}}
    )
    records = document_records(place, wanted)
    if not records or records[0].state is not FileState.AGREES:
        if records:
            warn(f"{REPORT_NAME} is {records[0].state.value}, so it is not shown")
        return None
    try:
        return read_report(place.path(REPORT_NAME))
    except EvaluationError as error:
        warn(str(error))
        return None


def _signed(signature: Signature | None) -> Table:
    table = _table("Signature", "", "")
    if signature is None:
        table.add_row("signed", "no")
        return table
    rows = {
        "key": signature.key,
        "version": signature.version,
        "created": signature.created,
        "manifest": signature.digest,
        "valid": "not checked here: diffusers-erasure verify --key PUBLIC.pem",
    }
    for name, value in rows.items():
        table.add_row(name, escape(value))
    return table


def _files(files: Sequence[FileRecord]) -> Table:
    table = _table("Files", "file", "what", "size", "sha256", "state")
    for record in files:
        shown = "-" if record.size is None else size(record.size)
        table.add_row(escape(record.name), record.role, shown, record.sha256[:12], record.state.value)
    return table
