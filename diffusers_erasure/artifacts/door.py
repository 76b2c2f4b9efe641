"""The one door through which artifacts come in: `load_artifact`.

For each file, in this order: its size is bounded, its bytes are read once, their sha256 is compared with the
manifest, the header is parsed strictly, names, shapes and dtypes are compared with the manifest, and the
values are looked at. The tensors are made from the bytes that were hashed. Nothing is unpickled, no code is
run, no file is opened that the manifest does not name.
"""

import logging
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from diffusers_erasure.durable import REPLACED
from diffusers_erasure.embedded import resolve_model
from diffusers_erasure.errors import (
    ArtifactFormatError,
    ArtifactIntegrityError,
    ArtifactNotFoundError,
    ConfigError,
)

from .artifact import Artifact
from .edits import DeltaEdit, Edit, RightFactorEdit, WholeEdit, check_values
from .hub import FolderSource, HubSource, Source, check_subfolder, is_repo_id
from .lookalikes import looks_like
from .manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, ComponentSpec, Manifest, TensorSpec, parse_manifest
from .safebytes import check_table, parse_header, read_bytes, sha256_of, tensors_from
from .signature import TrustedKey
from .trusting import check_signed

logger = logging.getLogger(__name__)


def load_artifact(
    source: str | Path,
    *,
    subfolder: str | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    trusted_key: TrustedKey | None = None,
) -> Artifact:
    """Read an artifact from a folder or the Hub; check everything that can be checked without its base.

    Args:
        source: Folder, Hub id `owner/name`, or `embedded/NAME` for one that ships with the package.
        subfolder: Folder inside of it.
        revision: Branch, tag or commit; resolved to one commit for all files.
        token: Hub token; None takes the one you are logged in with.
        cache_dir: Where downloads are kept.
        local_files_only: Whether only the cache may be used.
        force_download: Whether cached files are fetched anew.
        trusted_key: Public key (PEM file or text), or a `Trust` that also says which artifact is expected;
            what this key did not sign is refused.

    Raises:
        ArtifactError: One of its subclasses, naming file, expected, found and repair.
    """
    place = resolve_source(
        source,
        subfolder=subfolder,
        revision=revision,
        token=token,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        force_download=force_download,
    )
    manifest = read_manifest(place, trusted_key)
    edits: dict[str, Edit] = {}
    for component, spec in manifest.components.items():
        tensors = _read_listed(place, spec.file, manifest, spec.tensors)
        check_values(tensors, origin=place.describe(spec.file), whole=spec.form == "whole")
        edits[component] = _edit(spec, tensors)
    canary = _read_listed(place, manifest.canary.file, manifest, manifest.canary.tensors)
    _check_canary(manifest, canary, origin=place.describe(manifest.canary.file))
    return Artifact(
        manifest=manifest,
        edits=edits,
        canary=canary,
        origin=f"the artifact {place.label}",
        commit=place.commit if isinstance(place, HubSource) else None,
    )


def resolve_source(
    source: str | Path,
    *,
    subfolder: str | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> Source:
    """Whether a source is a folder or a Hub repository; else refuse it and say what it is."""
    inside = check_subfolder(subfolder)
    if not isinstance(source, str | Path):
        raise ConfigError(
            f"{source!r} is no place of an artifact; expected its folder or Hub id, or an Artifact; give one"
        )
    path = Path(resolve_model(source) if isinstance(source, str) else source).expanduser()
    if path.is_dir():
        folder = path / inside if inside else path
        if not (folder / MANIFEST_NAME).exists():
            raise ArtifactNotFoundError(looks_like(folder))
        return FolderSource(folder)
    if path.exists():
        raise ArtifactFormatError(
            f"{path} is a file; expected the folder of an artifact (with {MANIFEST_NAME}) or a Hub id; give "
            "the folder"
        )
    if not is_repo_id(str(source)):
        raise ArtifactNotFoundError(_no_such_folder(path))
    return HubSource(
        str(source),
        subfolder=inside,
        revision=revision,
        token=token,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        force_download=force_download,
    )


def read_manifest(place: Source, trusted_key: TrustedKey | None = None) -> Manifest:
    """The manifest alone, without any weights.

    Args:
        place: What `resolve_source` found.
        trusted_key: The key that must have signed it; see `load_artifact`.

    Raises:
        ArtifactError: It is not there, cannot be read, or is not signed by that key.
    """
    origin = place.describe(MANIFEST_NAME)
    path = place.path(MANIFEST_NAME)
    if place.altered_in_transit(path):
        path = place.fetch_again(MANIFEST_NAME) or path
    data = read_bytes(path, origin=origin, max_bytes=MAX_MANIFEST_BYTES)
    manifest = parse_manifest(bytes(data), origin=origin)
    if trusted_key is not None:
        check_signed(place, bytes(data), manifest, trusted_key)
    return manifest


def _read_listed(
    place: Source, name: str, manifest: Manifest, specs: Iterable[TensorSpec]
) -> dict[str, Tensor]:
    """Tensors of a file that the manifest lists; fetched once more if it came corrupted."""
    data, origin = _right_bytes(place, name, manifest.files[name])
    entries = parse_header(data, origin=origin)
    check_table(entries, specs, origin=origin)
    return tensors_from(data, entries)


def _right_bytes(place: Source, name: str, expected: str) -> tuple[bytearray, str]:
    path = place.path(name)
    origin = place.describe(name)
    data = read_bytes(path, origin=origin)
    if sha256_of(data) == expected:
        return data, origin
    fresh = place.fetch_again(name)
    if fresh is not None:
        data = read_bytes(fresh, origin=origin)
    if sha256_of(data) != expected:
        parse_header(data, origin=origin)  # a truncated or mangled file is named as such
    _check_sha256(
        data, expected, origin=origin, again=" also after a second download" if fresh is not None else ""
    )
    return data, origin


def _check_sha256(data: bytearray, expected: str, *, origin: str, again: str) -> None:
    found = sha256_of(data)
    if found != expected:
        raise ArtifactIntegrityError(
            f"{origin} is corrupted or was exchanged{again}: its sha256 is {found}, expected {expected}; "
            "download or save the artifact again, from a source that you trust"
        )


def _edit(spec: ComponentSpec, tensors: dict[str, Tensor]) -> Edit:
    if spec.form == "delta":
        return DeltaEdit(tensors)
    if spec.form == "whole":
        return WholeEdit(tensors)
    return RightFactorEdit(
        tensors.get("factor"), targets=spec.targets, left=tensors.get("left"), right=tensors.get("right")
    )


def _check_canary(manifest: Manifest, canary: dict[str, Tensor], *, origin: str) -> None:
    answers = {name: tensor for name, tensor in canary.items() if tensor.is_floating_point()}
    for component in manifest.components:
        for part in ("base", "erased"):
            if f"{component}.{part}" not in answers:
                raise ArtifactFormatError(
                    f"{origin} has no tensor '{component}.{part}'; expected the answers of base and erased "
                    f"{component}; download or save the artifact again"
                )
    finite = {name: tensor for name, tensor in answers.items() if name.endswith((".base", ".erased"))}
    check_values(finite, origin=origin)


def _no_such_folder(path: Path) -> str:
    asides = (
        [p for p in path.parent.glob(".*") if p.name.startswith(f".{path.name}.{REPLACED}-")]
        if path.name
        else []
    )
    if asides:
        return (
            f"there is no folder {path}; a save that was interrupted left the artifact that stood there as "
            f"{asides[0]}; rename it back"
        )
    return (
        f"there is no folder {path}, and it has not the form of a Hub id; expected the folder of an artifact "
        "or an id such as org/name; check the spelling"
    )
