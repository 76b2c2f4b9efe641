"""The files of a text encoder: in a folder, or in a repository on the Hub at one commit.

Weights are read through the same byte checks as artifacts, from safetensors or, where a folder has nothing
else, from `pytorch_model.bin`, whose pickle is read as data and never run (`torch_archive`). Shards are
refused: those that were replaced one by one are a mixture of two models that loads silently.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from diffusers_erasure.artifacts.hub import (
    FolderSource,
    HubSource,
    check_subfolder,
    is_absent,
    is_repo_id,
    is_unknown,
)
from diffusers_erasure.artifacts.safebytes import parse_header, read_bytes, sha256_of, tensors_from
from diffusers_erasure.embedded import resolve_model
from diffusers_erasure.errors import ArtifactFormatError, ArtifactNotFoundError

from .torch_archive import read_torch_archive

WEIGHTS_FILE = "model.safetensors"
PICKLED_FILE = "pytorch_model.bin"
INDEX_FILES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
MAX_WEIGHT_BYTES = 4 * 2**30
"""Room for the largest published CLIP text encoder (SDXL's second) in float32."""


class EncoderSource:
    """A text encoder's folder, local or on the Hub; files are fetched when they are asked for."""

    def __init__(self, place: FolderSource | HubSource) -> None:
        self._place = place

    @classmethod
    def find(
        cls,
        name: str,
        subfolder: str,
        revision: str | None,
        *,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
    ) -> EncoderSource:
        """The source of that name: what ships with the package, a folder that exists, else a Hub id."""
        inside = check_subfolder(subfolder)
        path = Path(resolve_model(name)).expanduser()
        if path.exists():
            folder = path / inside if inside else path
            if not folder.is_dir():
                raise ArtifactNotFoundError(
                    f"{folder} is not a folder; a text encoder is a folder with config.json and "
                    f"{WEIGHTS_FILE}; give the folder (for one inside a pipeline: subfolder='text_encoder')"
                )
            return cls(FolderSource(folder))
        if not is_repo_id(name):
            raise ArtifactNotFoundError(
                f"{name!r} is neither a folder nor a Hub id; expected a text encoder's folder or an id such "
                "as org/name; check the spelling and the working directory"
            )
        return cls(
            HubSource(
                name,
                subfolder=inside,
                revision=revision,
                token=token,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
                force_download=force_download,
            )
        )

    @property
    def label(self) -> str:
        """How messages call it."""
        if isinstance(self._place, FolderSource):
            return str(self._place.folder)
        place = self._place
        return f"{place.repo}/{place.subfolder}" if place.subfolder else place.repo

    @property
    def revision(self) -> str | None:
        """Commit that the files are read from, once one was fetched; None for a folder."""
        return None if isinstance(self._place, FolderSource) else self._place.commit or self._place.revision

    def has(self, filename: str) -> bool:
        """Whether there is such a file at hand (fetching it, on the Hub).

        False also where it is not in the cache and the Hub is out of reach: then `unknown` says so.
        """
        if isinstance(self._place, FolderSource):
            return self._place.path(filename).is_file()
        error = self._failure(filename)
        if error is None or is_absent(error) or is_unknown(error):
            return error is None
        raise error

    def unknown(self, filename: str) -> ArtifactNotFoundError | None:
        """The error that says why nobody can tell whether there is such a file; None where one can."""
        error = self._failure(filename)
        return error if error is not None and is_unknown(error) else None

    def path(self, filename: str) -> Path:
        """The file's path on this machine; an error if there is none, or a download that stays corrupted."""
        error = self._failure(filename)
        if error is not None:
            raise self._without(filename) if is_absent(error) else error
        return self._place.checked(filename)

    def _failure(self, filename: str) -> ArtifactNotFoundError | None:
        """The error with which fetching a file ends; None if it is there."""
        place = self._place
        if isinstance(place, FolderSource):
            return None if place.path(filename).is_file() else self._without(filename)
        try:
            place.path(filename)
        except ArtifactNotFoundError as error:
            return error
        return None

    def _without(self, filename: str) -> ArtifactNotFoundError:
        return ArtifactNotFoundError(
            f"{self.label} has no {filename}; a text encoder's folder has config.json and {WEIGHTS_FILE}; "
            "give the encoder's own folder (for one inside a pipeline: subfolder='text_encoder')"
        )

    def describe(self, filename: str) -> str:
        """A file in words."""
        return self._place.describe(filename)


@dataclass(frozen=True, eq=False)
class WeightFile:
    """The one file that holds an encoder's weights, as it was read.

    Attributes:
        name: `model.safetensors` or `pytorch_model.bin`.
        origin: The file in words.
        data: Its bytes, in memory of their own: a later change of the file does not reach them.
    """

    name: str
    origin: str
    data: bytearray

    @property
    def sha256(self) -> str:
        """Of the bytes; ask before the tensors are changed in place, which share their memory."""
        return sha256_of(self.data)

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by the names that they have in the file."""
        if self.name == PICKLED_FILE:
            return read_torch_archive(self.data, origin=self.origin)
        return tensors_from(self.data, parse_header(self.data, origin=self.origin))


def read_weight_file(source: EncoderSource) -> WeightFile:
    """The bytes of the encoder's one weight file: safetensors if there is one, else `pytorch_model.bin`.

    Raises:
        ArtifactNotFoundError: There is neither.
        ArtifactFormatError: The weights are cut into shards.
    """
    name = WEIGHTS_FILE
    if not source.has(WEIGHTS_FILE):
        _refuse_shards(source)
        name = PICKLED_FILE if source.has(PICKLED_FILE) else WEIGHTS_FILE
    path = source.path(name)
    origin = source.describe(name)
    return WeightFile(name, origin, read_bytes(path, origin=origin, max_bytes=MAX_WEIGHT_BYTES))


def read_weights(source: EncoderSource) -> tuple[dict[str, Tensor], str]:
    """All tensors of the encoder's one weight file, and the file in words."""
    file = read_weight_file(source)
    return file.tensors(), file.origin


def _refuse_shards(source: EncoderSource) -> None:
    for name in INDEX_FILES:
        if source.has(name):
            raise ArtifactFormatError(
                f"{source.label} is cut into shards ({name}); expected one {WEIGHTS_FILE}, since a mixture "
                "of old and new shards cannot be told from a whole; save it again as one file"
            )
