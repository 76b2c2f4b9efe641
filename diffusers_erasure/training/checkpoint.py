"""Checkpoints of a run: complete or not there, without pickle, and bound to the run that wrote them.

    checkpoint-500/
        state.json              step, what the run must agree on, sha256 of the other files
        parameters.safetensors  what is trained
        optimizer.safetensors   its moments, `<name of the moment>:<name of the parameter>`
        task.safetensors        what the method itself keeps, if anything

A checkpoint is written to a sibling folder, read back and compared, and then gets its name (`durable`): a
crash at any moment leaves the older ones as they were. Randomness is derived from (seed, step), so there is
no state of a generator to keep.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffusers_erasure.artifacts.artifact import library_versions
from diffusers_erasure.artifacts.jsontext import parse_json
from diffusers_erasure.artifacts.manifest import canonical_json
from diffusers_erasure.durable import file_sha256, remove_whole, sweep, whole_folder
from diffusers_erasure.errors import ArtifactFormatError, TrainingError

LATEST = "latest"
STATE_NAME = "state.json"
_FORMAT = 1
_NAME = re.compile(r"checkpoint-(\d+)")
_FILE = re.compile(r"[a-z]+\.safetensors")
_LONGEST_STATE = 16 * 2**20


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A run after some steps.

    Attributes:
        step: Optimizer steps that are done.
        tensors: Tensors by file ("parameters", "optimizer", "task") and name.
        agreed: What a run that goes on from here must have in common with the one that wrote it.
        extras: Further JSON: states of callbacks, the loss scale.
    """

    step: int
    tensors: Mapping[str, Mapping[str, Tensor]]
    agreed: Mapping[str, Any]
    extras: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CheckpointFolder:
    """The checkpoints of one run.

    Attributes:
        folder: Where they lie.
        limit: How many are kept; None keeps all.
    """

    folder: Path
    limit: int | None = None

    def paths(self) -> tuple[Path, ...]:
        """Every checkpoint, oldest first."""
        if not self.folder.is_dir():
            return ()
        found = [path for path in self.folder.iterdir() if _NAME.fullmatch(path.name) and path.is_dir()]
        return tuple(sorted(found, key=lambda path: int(path.name.rpartition("-")[2])))

    def find(self, wanted: str) -> Path | None:
        """The checkpoint that `resume_from_checkpoint` means; None if "latest" is wanted and there is none.

        Raises:
            TrainingError: There is no checkpoint of that name.
        """
        if wanted == LATEST:
            return next(reversed(self.paths()), None)
        for place in (Path(wanted).expanduser(), self.folder / wanted):
            if (place / STATE_NAME).is_file():
                return place
        there = ", ".join(path.name for path in self.paths()) or "none"
        raise TrainingError(
            f"{wanted!r} is no checkpoint; expected {LATEST!r} or the folder of one (in {self.folder}: "
            f"{there}); name one of them, or leave resume_from_checkpoint out to begin anew"
        )

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write a checkpoint, all or nothing, and then remove those beyond the limit."""
        sweep(self.folder, "checkpoint-*")  # a folder has one writer, so nobody is at work on them
        target = self.folder / f"checkpoint-{checkpoint.step}"
        with whole_folder(target) as draft:
            _write(draft, checkpoint)
        others = [path for path in self.paths() if path != target]  # later ones, if it began at an earlier
        for old in others[: len(others) + 1 - self.limit] if self.limit and len(others) >= self.limit else ():
            remove_whole(old)
        return target

    def clear(self) -> None:
        """Remove every checkpoint."""
        for path in self.paths():
            remove_whole(path)


def _write(folder: Path, checkpoint: Checkpoint) -> None:
    digests = {}
    for name, tensors in checkpoint.tensors.items():
        path = folder / f"{name}.safetensors"
        plain = {key: _plain(value) for key, value in tensors.items()}
        save_file(plain, path)
        _check_written(path, plain)
        digests[path.name] = file_sha256(path)
    content = {
        "format": _FORMAT,
        "step": checkpoint.step,
        "agreed": dict(checkpoint.agreed),
        "extras": dict(checkpoint.extras),
        "files": digests,
        "versions": library_versions(),
    }
    sealed = {**content, "checksum": _seal(content)}
    (folder / STATE_NAME).write_bytes(canonical_json(sealed))


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()


def _check_written(path: Path, expected: Mapping[str, Tensor]) -> None:
    found = load_file(path)
    same = set(found) == set(expected) and all(
        torch.equal(_bits(found[name]), _bits(value)) for name, value in expected.items()
    )
    if not same:
        raise TrainingError(
            f"{path} does not read back as it was written; expected the same tensors; the disk or memory is "
            f"faulty, write to another disk"
        )


def _bits(tensor: Tensor) -> Tensor:
    """The bytes of a tensor, so that NaN equals itself."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def agreed_in(path: Path) -> Mapping[str, Any]:
    """What a checkpoint says of the run that wrote it; its tensors are not read.

    Raises:
        TrainingError: Its state is missing, damaged or of another format.
    """
    agreed: Mapping[str, Any] = _read_state(path)["agreed"]
    return agreed


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint, every file checked against its sha256.

    Raises:
        TrainingError: A file is missing, damaged or of another format.
    """
    content = _read_state(path)
    tensors: dict[str, dict[str, Tensor]] = {}
    for name, digest in content["files"].items():
        file = path / name
        if not _FILE.fullmatch(name) or not file.is_file() or file_sha256(file) != digest:
            raise _damaged(path, f"its file {name} is missing or has other bytes than were written")
        try:
            tensors[name.removesuffix(".safetensors")] = load_file(file)
        except SafetensorError as error:
            raise _damaged(path, f"its file {name} cannot be read ({error})") from error
    return Checkpoint(content["step"], tensors, content["agreed"], content["extras"])


def _read_state(path: Path) -> dict[str, Any]:
    state = path / STATE_NAME
    if not state.is_file():
        raise _damaged(path, f"it has no {STATE_NAME}")
    try:
        content = parse_json(state.read_bytes(), origin=str(state), max_bytes=_LONGEST_STATE)
    except ArtifactFormatError as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise _damaged(path, f"it is not in format {_FORMAT} of this version")
    checksum = content.pop("checksum", None)
    if checksum != _seal(content):
        raise _damaged(path, f"its {STATE_NAME} was changed")
    return content


def _damaged(path: Path, fault: str) -> TrainingError:
    return TrainingError(
        f"the checkpoint {path} cannot be used: {fault}; expected it as a training run wrote it; resume from "
        f"another checkpoint, or remove it and begin anew"
    )


def check_agrees(found: Mapping[str, Any], wanted: Mapping[str, Any], *, origin: Path) -> None:
    """Refuse a checkpoint of another run.

    Args:
        found: What the checkpoint says of the run that wrote it.
        wanted: The same of the run that is to go on.
        origin: The checkpoint.

    Raises:
        TrainingError: They differ; every difference is named.
    """
    names = [name for name in sorted({*found, *wanted}) if found.get(name) != wanted.get(name)]
    if names:
        differences = "; ".join(
            f"{name} was {_short(found.get(name))}, now {_short(wanted.get(name))}" for name in names
        )
        raise TrainingError(
            f"the checkpoint {origin} belongs to another run: {differences}; a run goes on only with the "
            f"same settings, base model and concepts; give those, or another output_dir"
        )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def _seal(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(dict(content))).hexdigest()
