r"""Turn a published robust text encoder, which has no manifest, into an artifact of this package.

    diffusers-erasure import OPTML-Group/AdvUnlearn --subfolder nudity_unlearned --revision COMMIT \
        --concept nudity --pretrained_model_name_or_path CompVis/stable-diffusion-v1-4 --output_dir nudity

The encoder is compared with the base's own; the tensors that differ become the artifact, and where they came
from stands in its manifest. How it was trained is not known, and the manifest says so. Name a commit as the
revision: the names of published folders have changed before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from diffusers_erasure.artifacts.manifest import BaseModelRef
from diffusers_erasure.concepts import ConceptKind, resolve_concepts

from . import console
from .flags import read_flags
from .inspect import size

if TYPE_CHECKING:
    from diffusers_erasure.encoders.importing import ImportedEncoder
    from diffusers_erasure.encoders.loading import LoadRequest


@dataclass(frozen=True)
class ImportArguments:
    """A robust encoder, what its makers say of it, and the base that it was trained from."""

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ENCODER")]
    """folder or Hub id of the encoder"""
    concept: tyro.conf.UseAppendAction[tuple[str, ...]]
    """concept that it erases, as its makers say; give it once per concept"""
    pretrained_model_name_or_path: str
    """base model that it was trained from: a folder, a Hub id, or `embedded`"""
    output_dir: Path
    """folder for the artifact"""
    subfolder: str | None = None
    """folder of the encoder inside of the repository"""
    revision: str | None = None
    """branch, tag or commit of the encoder's repository"""
    base_revision: str | None = None
    """branch, tag or commit of the base model"""
    concept_kind: ConceptKind | None = None
    """kind of the concepts that the embedded vocabulary does not know; object unless given"""
    method: str = "advunlearn"
    """method that it was trained with, as its makers say"""
    overwrite: bool = False
    """replace output_dir if it exists"""
    token: str | None = None
    """Hub token"""
    cache_dir: str | None = None
    """where downloads are kept"""
    local_files_only: bool = False
    """use only what is in the cache"""

    def request(self) -> LoadRequest:
        """Where the encoder lies."""
        from diffusers_erasure.encoders.loading import LoadRequest

        return LoadRequest(
            source=self.source,
            subfolder=self.subfolder or "",
            revision=self.revision,
            token=self.token,
            cache_dir=self.cache_dir,
            local_files_only=self.local_files_only,
        )

    def base(self) -> BaseModelRef:
        """How the artifact names the base: the id, or a local folder's name (where it lies is private)."""
        name = self.pretrained_model_name_or_path
        local = Path(name).expanduser()
        return BaseModelRef(id=local.resolve().name if local.is_dir() else name, revision=self.base_revision)


def main(argv: Sequence[str]) -> int:
    """Run `diffusers-erasure import`."""
    arguments = read_flags(ImportArguments, argv, "diffusers-erasure import", __doc__)
    from diffusers_erasure.artifacts.store import check_target, save_artifact

    check_target(arguments.output_dir, overwrite=arguments.overwrite)
    imported = _import(arguments)
    folder = save_artifact(imported.artifact, arguments.output_dir, overwrite=arguments.overwrite)
    _summarise(arguments, imported, folder)
    return 0


def _import(arguments: ImportArguments) -> ImportedEncoder:
    from diffusers_erasure.encoders.importing import import_encoder
    from diffusers_erasure.pipelines.base import load_base_pipeline

    concepts = resolve_concepts(arguments.concept, anchors=("",), kind=arguments.concept_kind)
    pipe = load_base_pipeline(
        arguments.pretrained_model_name_or_path,
        revision=arguments.base_revision,
        token=arguments.token,
        cache_dir=arguments.cache_dir,
        local_files_only=arguments.local_files_only,
        unet=None,
        vae=None,
        safety_checker=None,
        requires_safety_checker=False,
    )
    return import_encoder(
        pipe, arguments.request(), concepts=concepts, base=arguments.base(), method=arguments.method
    )


def _summarise(arguments: ImportArguments, imported: ImportedEncoder, folder: Path) -> None:
    difference = imported.difference
    kept = difference.total - len(difference.deltas)
    written = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    rounded = f", {difference.rounded} of them but for rounding" if difference.rounded else ""
    console.show_facts(
        {
            "imported from": imported.source,
            "weights": f"{imported.file}, sha256 {imported.sha256}",
            "method": f"{arguments.method} (as its makers say)",
            "base model": arguments.pretrained_model_name_or_path,
            "concepts": ", ".join(imported.artifact.manifest.concept_names),
            "tensors changed": f"{len(difference.deltas)} of {difference.total}",
            "where": difference.places,
            "as in the base": f"{kept} tensors{rounded}",
            "size of the change": f"{difference.relative:.2%} of the weights that it changes",
            "not known": "settings, seed and steps of the training; what the erasure achieves",
            "saved": f"{folder} ({size(written)})",
        }
    )
    for note in imported.notes:
        console.warn(note)
