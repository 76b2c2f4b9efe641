"""The files of a text encoder: in a folder, or in a repository on the Hub at one commit.

Weights are read through the same byte checks as artifacts. Pickles and shards are refused: a pickle can run
code, and shards that were replaced one by one are a mixture of two models that loads silently.
"""

from __future__ import annotations

from pathlib import Path

from huggingface_hub.errors import EntryNotFoundError
from torch import Tensor

from diffusers_erasure.artifacts.hub import FolderSource, HubSource, check_subfolder, is_repo_id
from diffusers_erasure.artifacts.safebytes import parse_header, read_bytes, tensors_from
from diffusers_erasure.errors import (
    ArtifactFormatError,
    ArtifactNotFoundError,
    UnverifiedArtifactError,
)

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
PICKLE_FILES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
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
        """The source of that name: a folder that exists, else a repository id."""
        inside = check_subfolder(subfolder)
        path = Path(name).expanduser()
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
        """Whether there is such a file (fetching it, on the Hub)."""
        if isinstance(self._place, FolderSource):
            return self._place.path(filename).is_file()
        try:
            self._place.path(filename)
        except ArtifactNotFoundError as error:
            if isinstance(error.__cause__, EntryNotFoundError):
                return False
            raise
        return True

    def path(self, filename: str) -> Path:
        """The file's path on this machine; an error if there is none."""
        if not self.has(filename):
            raise ArtifactNotFoundError(
                f"{self.label} has no {filename}; a text encoder's folder has config.json and "
                f"{WEIGHTS_FILE}; give the encoder's own folder (for one inside a pipeline: "
                "subfolder='text_encoder')"
            )
        return self._place.path(filename)

    def describe(self, filename: str) -> str:
        """A file in words."""
        return self._place.describe(filename)


def read_weights(source: EncoderSource) -> tuple[dict[str, Tensor], str]:
    """All tensors of the encoder's one safetensors file, and the file in words.

    The tensors lie in memory of their own: a later change of the file does not reach them.
    """
    if not source.has(WEIGHTS_FILE):
        raise _no_weights(source)
    origin = source.describe(WEIGHTS_FILE)
    data = read_bytes(source.path(WEIGHTS_FILE), origin=origin, max_bytes=MAX_WEIGHT_BYTES)
    return tensors_from(data, parse_header(data, origin=origin)), origin


def _no_weights(source: EncoderSource) -> Exception:
    if source.has(INDEX_FILE):
        return ArtifactFormatError(
            f"{source.label} is cut into shards ({INDEX_FILE}); expected one {WEIGHTS_FILE}, since a mixture "
            "of old and new shards cannot be told from a whole; save it again as one file"
        )
    for name in PICKLE_FILES:
        if source.has(name):
            return UnverifiedArtifactError(
                f"{source.label} has only pickled weights ({name}), which can run code when they are read "
                f"and cannot be verified; expected {WEIGHTS_FILE}; convert the encoder to safetensors in a "
                "process that you trust"
            )
    return ArtifactNotFoundError(
        f"{source.label} has no {WEIGHTS_FILE}; a text encoder's folder has config.json and {WEIGHTS_FILE}; "
        "give the encoder's own folder (for one inside a pipeline: subfolder='text_encoder')"
    )
