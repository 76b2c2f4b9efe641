"""Show what an artifact says of itself: method, concepts, base, components, settings, evaluation."""

from collections.abc import Sequence

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from diffusers_erasure.artifacts.manifest import Manifest

from .opening import ArtifactSource


def main(argv: Sequence[str]) -> int:
    """Run `diffusers-erasure inspect`."""
    source = tyro.cli(ArtifactSource, args=list(argv), prog="diffusers-erasure inspect", description=__doc__)
    artifact = source.open()
    console = Console()
    for table in tables(artifact.manifest):
        console.print(table)
    return 0


def tables(manifest: Manifest) -> list[Table]:
    """The manifest as tables; those that would be empty are left out."""
    found = [_summary(manifest), _concepts(manifest), _components(manifest)]
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
