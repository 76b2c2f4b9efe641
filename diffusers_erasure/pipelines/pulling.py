"""Fetching a pipeline from the Hub: every file whole, from one commit, and nothing that could run.

diffusers fetches by patterns of its own, among them program code, and the client checks only a file's length.
Here the index says which folders make the pipeline; of each one its configurations, vocabularies and weights
are fetched, each file is compared with the hash that the Hub gave it, and one that differs is fetched once
more. diffusers then loads from the folder in the cache and asks the Hub for nothing. For a pipeline that was
saved erased, the components that the erasure changed are compared with their seals afterwards (`baked`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any

from diffusers_erasure.artifacts.hub import FolderSource, HubSource
from diffusers_erasure.encoders.source import EncoderSource
from diffusers_erasure.errors import ArtifactFormatError, ArtifactNotFoundError

from .index import INDEX_FILE, PipelineIndex, hub_options, read_index

LIBRARIES = ("diffusers", "transformers", "diffusers_erasure")
"""Packages whose classes an index may name, besides the modules of diffusers' own pipelines."""
STOCK_PIPELINES = "diffusers.pipelines"
SMALL = ("*.json", "*.txt", "*.model")
SAFE, PICKLED = ".safetensors", ".bin"
_PLAIN = re.compile(r"[\w.\-]+")
_SHARD = re.compile(r"-\d{5}-of-\d{5}")
_WEIGHTS = re.compile(
    r"(diffusion_pytorch_model|model|pytorch_model)(\.(?P<variant>\w+))?(\.safetensors|\.bin)"
)


def pull(
    place: str, revision: str | None, options: Mapping[str, Any], *, pickles: bool
) -> tuple[Path, dict[str, Any]]:
    """Bring the files of a pipeline into the cache, and check them.

    Args:
        place: Folder, which is left as it is, or Hub id.
        revision: Branch, tag or commit.
        options: Arguments of the loading call; components that are passed in are not fetched.
        pickles: Whether weights may be pickles where a component has no others (diffusers reads them with
            `weights_only`); never for a pipeline that was saved erased.

    Returns:
        The folder to load from, and the arguments to load with.

    Raises:
        ArtifactNotFoundError: It is not there, or not complete.
        ArtifactFormatError: The index names program code.
        ArtifactIntegrityError: A file is corrupted also after a second download.
    """
    wanted = dict(options) if pickles else {**options, "use_safetensors": True}
    folder = Path(place).expanduser()
    source = (
        FolderSource(folder)
        if folder.is_dir()
        else HubSource(place, revision=revision, **hub_options(options))
    )
    files = EncoderSource(source)
    index = read_index(files)
    if index is None:
        raise files.unknown(INDEX_FILE) or without_index(place)
    parts = _parts(index, passed=options)
    if isinstance(source, FolderSource):
        return folder, wanted
    return _fetched(source, parts, options, pickles=pickles), {**wanted, "force_download": False}


def without_index(place: str) -> ArtifactNotFoundError:
    """The error for a place that holds no pipeline."""
    return ArtifactNotFoundError(
        f"{place} has no {INDEX_FILE}; expected a pipeline's folder; give the one that save_pretrained wrote"
    )


def _parts(index: PipelineIndex, *, passed: Collection[str]) -> list[str]:
    """Folders of the components that the index names and that were not passed in.

    Raises:
        ArtifactFormatError: It asks for a class of its own code, or of a package that has no say here.
    """
    named = index.content.get("_class_name", "")
    if not isinstance(named, str):
        raise _names_code(index, f"the class of the pipeline is {named!r}")
    parts = []
    for part, value in index.content.items():
        if part in passed or not isinstance(value, list) or not value or value[0] is None:
            continue
        if not _is_known(value[0]) or not _PLAIN.fullmatch(part):
            raise _names_code(index, f"the class of {part!r} is {value!r}")
        parts.append(part)
    return parts


def _is_known(library: object) -> bool:
    """Whether a class is of a package named above, or of a module of diffusers' own pipelines."""
    if not isinstance(library, str):
        return False
    own = library.isidentifier() and find_spec(f"{STOCK_PIPELINES}.{library}") is not None
    return own or library.partition(".")[0] in LIBRARIES


def _names_code(index: PipelineIndex, found: str) -> ArtifactFormatError:
    return ArtifactFormatError(
        f"{index.where} names program code of its own: {found}; expected classes of {', '.join(LIBRARIES)}, "
        "since code from a repository is never loaded here; choose another repository, or load it with its "
        "stock class if you trust that code"
    )


def _fetched(source: HubSource, parts: list[str], options: Mapping[str, Any], *, pickles: bool) -> Path:
    """The folder in the cache with all that was chosen, checked."""
    held = source.names()
    if held is None:
        small = [f"{part}/{pattern}" for part in parts for pattern in SMALL]
        deeper = [f"{part}/*/*" for part in parts]
        folder = source.fetch_all([INDEX_FILE, *small], but=deeper, local_files_only=True)
        held = tuple(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    chosen = _chosen(held, parts, options.get("variant"), (SAFE, PICKLED) if pickles else (SAFE,))
    folder = source.fetch_all(chosen)
    source.check_all(chosen)
    return folder


def _chosen(
    held: Iterable[str], parts: Collection[str], variant: str | None, suffixes: tuple[str, ...]
) -> list[str]:
    """The index, and of each component what is small and one set of weights."""
    chosen: list[str] = [INDEX_FILE]
    weights: dict[tuple[str, str, str | None], list[str]] = {}
    for name in held:
        path = PurePosixPath(name)
        if path.parent.as_posix() not in parts:
            continue
        if any(path.match(pattern) for pattern in SMALL):
            chosen.append(name)
        elif match := _WEIGHTS.fullmatch(_SHARD.sub("", path.name)):
            weights.setdefault((path.parent.name, path.suffix, match["variant"]), []).append(name)
    for part in parts:
        sets = ((part, suffix, which) for suffix in suffixes for which in (variant, None))
        chosen += next((weights[one] for one in sets if one in weights), [])
    return sorted(chosen)
