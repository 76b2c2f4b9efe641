"""A bank as a folder: numbered safetensors files, each complete or absent, and `bank.json` at the end.

Each file carries the digests of what it was made from, so that a build that was stopped goes on where it
stopped, and never mixes two models. `bank.json` lists the files with their sha256.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from diffusers_erasure.durable import file_sha256, write_whole
from diffusers_erasure.errors import ArtifactFormatError, ArtifactIntegrityError, ConfigError

from .trajectories import Pairs

Storage = Literal["memory", "disk"]

BANK_NAME = "bank.json"
FORMAT_VERSION = 1
_AGAIN = "delete the folder and build the bank again"


class PairTable(Protocol):
    """Rows of pairs, wherever they lie."""

    def __len__(self) -> int:
        """How many there are."""

    def rows(self, indices: Tensor) -> Pairs:
        """These rows, in this order."""


@dataclass(frozen=True)
class MemoryTable:
    """Pairs in main memory."""

    pairs: Pairs

    def __len__(self) -> int:
        return len(self.pairs.latents)

    def rows(self, indices: Tensor) -> Pairs:
        """These rows, in this order."""
        return self.pairs.rows(indices)


@dataclass(frozen=True)
class DiskTable:
    """Pairs in the files of a folder; only the rows that are asked for are read."""

    folder: Path
    sizes: tuple[int, ...]

    def __len__(self) -> int:
        return sum(self.sizes)

    def rows(self, indices: Tensor) -> Pairs:
        """These rows, in this order."""
        found = [self._row(int(index)) for index in indices]
        return Pairs.from_tensors({name: torch.cat([row[name] for row in found]) for name in found[0]})

    def _row(self, index: int) -> dict[str, Tensor]:
        part = 0
        while index >= self.sizes[part]:
            index -= self.sizes[part]
            part += 1
        with safe_open(self.folder / part_name(part), framework="pt") as file:
            return {name: file.get_slice(name)[index : index + 1] for name in file.keys()}  # noqa: SIM118


def part_name(number: int) -> str:
    """File name of a part."""
    return f"part-{number:05d}.safetensors"


def write_part(folder: Path, number: int, pairs: Pairs, origins: Mapping[str, str], first: int) -> None:
    """Write one part, all or nothing.

    Args:
        folder: The bank's folder.
        number: Which part.
        pairs: Its rows, in main memory.
        origins: Digests of what it was made from.
        first: Number of its first trajectory.
    """
    tensors = {name: tensor.contiguous() for name, tensor in pairs.tensors().items()}
    write_whole(folder / part_name(number), save_tensors(tensors, metadata=_note(origins, first)))


def part_is_there(folder: Path, number: int, origins: Mapping[str, str], first: int, rows: int) -> bool:
    """Whether an earlier build wrote this part.

    Raises:
        ConfigError: There is one, but made from something else or cut otherwise.
        ArtifactFormatError: There is one that is no safetensors file.
    """
    path = folder / part_name(number)
    if not path.exists():
        return False
    try:
        with safe_open(path, framework="pt") as file:
            noted = dict(file.metadata() or {})
            found = file.get_slice("timesteps").get_shape()
    except SafetensorError as error:
        raise ArtifactFormatError(f"{path} is no part of a bank ({error}); {_AGAIN}") from error
    refuse_other_origins(path, noted, origins)
    if noted != _note(origins, first) or found != [rows]:
        raise ConfigError(
            f"{path} holds {found} pairs from trajectory {noted.get('first')} on; expected {rows} from "
            f"{first} on; go on with the batch_size that the build began with, or {_AGAIN}"
        )
    return True


def refuse_other_origins(path: Path, found: Mapping[str, Any], wanted: Mapping[str, str]) -> None:
    """Refuse what was made from something else, and name it.

    Raises:
        ConfigError: A digest differs.
    """
    differing = [name for name, digest in wanted.items() if found.get(name) != digest]
    if differing:
        raise ConfigError(
            f"{path} was made from another {', another '.join(differing)} (found "
            f"{str(found.get(differing[0]))[:12]}, expected {wanted[differing[0]][:12]}); a bank serves only "
            f"the model, prompts and settings that made it; choose another folder or {_AGAIN}"
        )


def finish(folder: Path, parts: int, origins: Mapping[str, str], settings: Mapping[str, Any]) -> None:
    """List the parts in `bank.json`; from now on the bank is complete."""
    files = {name: file_sha256(folder / name) for name in map(part_name, range(parts))}
    content = {
        "format": FORMAT_VERSION,
        "origins": dict(origins),
        "settings": dict(settings),
        "files": files,
    }
    write_whole(folder / BANK_NAME, json.dumps(content, indent=2, sort_keys=True).encode())


def open_table(folder: Path, origins: Mapping[str, str], storage: Storage) -> PairTable:
    """The pairs of a complete bank, each file checked against its sha256 and every value finite.

    Raises:
        ArtifactFormatError: There is no complete bank of a format that is known.
        ArtifactIntegrityError: A file was changed.
        ConfigError: The bank was made from something else.
    """
    content = _read_list(folder)
    refuse_other_origins(folder, content["origins"], origins)
    read = [_read_part(folder / name, digest) for name, digest in sorted(content["files"].items())]
    sizes = tuple(len(part.latents) for part in read)
    if storage == "disk":
        return DiskTable(folder, sizes)
    return MemoryTable(Pairs.joined(read))


def _read_list(folder: Path) -> dict[str, Any]:
    path = folder / BANK_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ArtifactFormatError(
            f"{folder} has no {BANK_NAME}; expected the folder of a complete bank; build it, which goes on "
            f"from the parts that are there"
        ) from error
    except ValueError as error:
        raise ArtifactFormatError(
            f"{path} is not JSON ({error}); expected a bank's list; {_AGAIN}"
        ) from error
    found = content.get("format") if isinstance(content, dict) else None
    wanted = {"format", "origins", "settings", "files"}
    if found != FORMAT_VERSION or set(content) != wanted or not content["files"]:
        raise ArtifactFormatError(
            f"{path} is no bank of format {FORMAT_VERSION} (found {found!r}) with files; expected the fields "
            f"{', '.join(sorted(wanted))}; {_AGAIN}"
        )
    checked: dict[str, Any] = content
    return checked


def _read_part(path: Path, digest: str) -> Pairs:
    if not path.is_file() or file_sha256(path) != digest:
        raise ArtifactIntegrityError(
            f"{path} is not the file that {BANK_NAME} lists; expected sha256 {digest[:12]}...; it was lost, "
            f"changed or corrupted; {_AGAIN}"
        )
    return Pairs.from_tensors(load_tensors(path.read_bytes())).check(str(path))


def _note(origins: Mapping[str, str], first: int) -> dict[str, str]:
    return {**origins, "first": str(first)}
