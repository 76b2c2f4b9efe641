"""Putting erasures on a pipeline: copy on write, stack, scale, take off.

    load_erasure        base + change -> new module in the pipeline; the caller's module stays as it was
    set_erasure_scale   recompose from the base with another scale
    unload_erasure      recompose without it; the last one gives the base object back
    list_erasures       what is on the pipeline

The weights are always composed anew from the base, never added to and subtracted from. Works for stock
pipelines and for ours: the component is exchanged by assignment, and all bookkeeping is the record on the
module (and, on the pipeline, the list of what was loaded, so that a component exchanged later is noticed).
Changes are made one after the other, whatever threads ask for them, and outside `torch.inference_mode()`.
"""

import functools
import math
import re
import threading
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch
from torch import nn

from diffusers_erasure.errors import ConfigError

from .artifact import Artifact
from .composition import given_back, recomposed, refuse_changed, with_erasure
from .door import load_artifact
from .offload import offload_suspended
from .record import LEDGER_NAME, Applied, ComponentRecord, record_of
from .signature import TrustedKey
from .tensors import unwrapped

ERASABLE = ("text_encoder", "text_encoder_2", "unet")
SEAL_NAME = "erasure_seal"
"""Attribute of a component that came erased; what hangs there (`encoders.seal`) lists its `erasures`."""
_NAME = re.compile(r"[A-Za-z0-9][\w.+\- ]{0,99}")
_CHANGING = threading.RLock()


_P = ParamSpec("_P")
_R = TypeVar("_R")


def _alone(change: Callable[_P, _R]) -> Callable[_P, _R]:
    """Let one change of components end before the next begins, and make tensors that count their changes."""

    @functools.wraps(change)
    def changing(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with _CHANGING, torch.inference_mode(mode=False):
            return change(*args, **kwargs)

    return changing


class ErasureTransferWarning(UserWarning):
    """An erasure was put on another base model than the one it was made for."""


@dataclass(frozen=True)
class AppliedErasure:
    """An erasure as it stands on a pipeline.

    Attributes:
        name: Its name there.
        method: The erasure method.
        concepts: Names of the erased concepts.
        scale: 1 is as trained, 0 is the base.
        digest: Digest of the artifact.
        transfer: Whether the base is another than the artifact's.
        components: Names of the edited components.
    """

    name: str
    method: str
    concepts: tuple[str, ...]
    scale: float
    digest: str
    transfer: bool
    components: tuple[str, ...]


def load_erasure(  # noqa: PLR0913 (the names that diffusers' loaders have)
    pipe: Any,
    source: str | Path | Artifact,
    *,
    name: str | None = None,
    scale: float = 1.0,
    subfolder: str | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    trusted_key: TrustedKey | None = None,
) -> str:
    """Erase: read an artifact and put it on a pipeline, on top of what is there.

    Args:
        pipe: Any diffusers pipeline with the components that the artifact edits. They are exchanged for
            edited copies; the modules themselves, and pipelines that share them, stay as they are.
        source: Folder, Hub id, or an `Artifact`.
        name: Name of the erasure on this pipeline; made from its concepts if not given.
        scale: Strength; 1 is as trained.
        subfolder: See `load_artifact`, as all that follow.
        revision: Branch, tag or commit.
        token: Hub token.
        cache_dir: Where downloads are kept.
        local_files_only: Whether only the cache may be used.
        force_download: Whether cached files are fetched anew.
        trusted_key: Public key, or `Trust`; an artifact that this key did not sign is refused. An `Artifact`
            in memory carries no signature: give the key to `load_artifact`.

    Returns:
        The erasure's name, for `set_erasure_scale` and `unload_erasure`.

    Raises:
        ConfigError: An argument cannot be used (a scale that is no finite number, a name that is none or is
            taken, a place that cannot be one, a key with an `Artifact`), the artifact is on the pipeline
            already, or weights that it edits are quantised.
        ArtifactError: It cannot be read (see `load_artifact`), does not fit the pipeline's component or its
            configuration (`BaseModelMismatchError`), or computes something else there than it promises.
        MissingDependencyError: A key was given, and the package that checks signatures is not installed.
        ErasureStateError: A component was changed since it was erased or has no weights loaded
            (`ErasureNotActiveError`), is hooked by diffusers, or runs another `forward` than its class's.
    """
    strength = _checked_scale(scale)
    _check_signable(source, trusted_key)
    if not isinstance(source, Artifact):
        source = load_artifact(
            source,
            subfolder=subfolder,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            force_download=force_download,
            trusted_key=trusted_key,
        )
    label, transferred = _put_on(pipe, source, name, strength)
    _tell_transfer(source, label, transferred)
    return label


@_alone
def _put_on(pipe: Any, artifact: Artifact, name: str | None, scale: float) -> tuple[str, list[str]]:
    """Exchange the components; returns the erasure's name, and the parts that are another base's."""
    label = _free_name(pipe, artifact, name)
    with offload_suspended(pipe, artifact.edits):
        ready = {part: with_erasure(pipe, part, artifact, label, scale) for part in artifact.edits}
        _install(pipe, ready)
    vars(pipe).setdefault(LEDGER_NAME, {})[label] = artifact
    return label, [part for part, module in ready.items() if _last(module).transfer]


@_alone
def set_erasure_scale(pipe: Any, name: str, scale: float) -> None:
    """Change the strength of a loaded erasure; 0 is the base, bit for bit.

    Args:
        pipe: Pipeline with the erasure.
        name: Name that `load_erasure` returned.
        scale: New strength.

    Raises:
        ConfigError: The scale is no finite number, or there is no such erasure on the pipeline.
        ErasureNotActiveError: An erased component, or its base, was changed since; or weights of it are not
            loaded.
        BaseModelMismatchError: The projections of a component were fused since.
        ErasureStateError: diffusers has hooked layers of a component, or it runs another `forward` than its
            class's.
    """
    strength = _checked_scale(scale)
    parts = _parts_with(pipe, [name])
    with offload_suspended(pipe, [part for part, _, _ in parts]):
        ready = {}
        for part, module, record in parts:
            refuse_changed(module, record)
            changed = (replace(a, scale=strength) if a.name == name else a for a in record.erasures)
            ready[part] = recomposed(module, record, tuple(changed))
        _install(pipe, ready)


@_alone
def unload_erasure(pipe: Any, name: str | None = None) -> None:
    """Take an erasure off; without any left, the pipeline gets back the very base module that it had.

    Args:
        pipe: Pipeline with the erasure.
        name: Which one; None takes off all of them.

    Raises:
        ConfigError: There is no such erasure on the pipeline.
        ErasureNotActiveError: Another erasure stays on a component that was changed since; or weights of it
            are not loaded.
        BaseModelMismatchError: The projections of a component were fused since.
        ErasureStateError: A copy of a component has to be made (another erasure stays, or it was cast or
            moved since), and diffusers has hooked layers of it, or it runs another `forward` than its
            class's.
    """
    names = [name] if name is not None else [applied.name for applied in list_erasures(pipe)]
    ledger = vars(pipe).setdefault(LEDGER_NAME, {})
    parts = _parts_with(pipe, names) if name is None or name not in ledger else _parts_or_none(pipe, names)
    with offload_suspended(pipe, [part for part, _, _ in parts]):
        ready = {}
        for part, module, record in parts:
            left = tuple(applied for applied in record.erasures if applied.name not in names)
            if left:
                refuse_changed(module, record)
            ready[part] = recomposed(module, record, left) if left else given_back(module, record)
        _install(pipe, ready)
    for gone in names if name is not None else list(ledger):
        ledger.pop(gone, None)


def note_loaded(pipe: Any) -> None:
    """Enter into a pipeline's ledger what its components carry: it may have been made from another's.

    Args:
        pipe: Any pipeline.
    """
    for _, _, record in _records(pipe):
        for applied in record.erasures:
            vars(pipe).setdefault(LEDGER_NAME, {}).setdefault(applied.name, applied.artifact)


def list_erasures(pipe: Any) -> tuple[AppliedErasure, ...]:
    """The erasures on a pipeline, in the order they were loaded."""
    found: dict[str, AppliedErasure] = {}
    for part, _, record in _records(pipe):
        for applied in record.erasures:
            known = found.get(applied.name)
            manifest = applied.artifact.manifest
            found[applied.name] = AppliedErasure(
                name=applied.name,
                method=manifest.method,
                concepts=manifest.concept_names,
                scale=applied.scale,
                digest=applied.artifact.digest,
                transfer=applied.transfer or (known is not None and known.transfer),
                components=(*(known.components if known else ()), part),
            )
    return tuple(found.values())


def _install(pipe: Any, ready: dict[str, nn.Module]) -> None:
    """All components or none: nothing can fail between the assignments."""
    for part, module in ready.items():
        setattr(pipe, part, module)


def _records(pipe: Any) -> list[tuple[str, nn.Module, ComponentRecord]]:
    found = []
    for part in ERASABLE:
        module = getattr(pipe, part, None)
        record = record_of(module)
        if record is not None and isinstance(module, nn.Module):
            found.append((part, unwrapped(module), record))
    return found


def _parts_or_none(pipe: Any, names: Iterable[str]) -> list[tuple[str, nn.Module, ComponentRecord]]:
    wanted = set(names)
    return [(part, module, record) for part, module, record in _records(pipe) if wanted & set(record.names)]


def _parts_with(pipe: Any, names: list[str]) -> list[tuple[str, nn.Module, ComponentRecord]]:
    parts = _parts_or_none(pipe, names)
    if not parts and names:
        there = ", ".join(applied.name for applied in list_erasures(pipe)) or "none"
        raise ConfigError(
            f"the pipeline has no erasure {names[0]!r}; expected one of: {there}; see list_erasures(pipe)"
        )
    return parts


def _last(module: nn.Module) -> Applied:
    record = record_of(module)
    assert record is not None
    return record.erasures[-1]


def _tell_transfer(artifact: Artifact, label: str, parts: list[str]) -> None:
    if parts:
        warnings.warn(
            f"{label}: {', '.join(parts)} is not the {artifact.manifest.base.id} that this erasure was made "
            "for, but one of the same shapes; the change is transferred to it, and nothing is known of how "
            "well it erases there; measure it with `diffusers-erasure evaluate`",
            ErasureTransferWarning,
            stacklevel=3,
        )


def _checked_scale(scale: float) -> float:
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not math.isfinite(scale):
        raise ConfigError(
            f"scale={scale!r} is no strength; expected a finite number, 1 is as trained; give one"
        )
    return float(scale)


def _check_signable(source: str | Path | Artifact, trusted_key: TrustedKey | None) -> None:
    if trusted_key is not None and isinstance(source, Artifact):
        raise ConfigError(
            f"trusted_key was given with {source.origin}, which is in memory already; expected a folder or a "
            "Hub id, whose signature can be checked; give that, or the key to load_artifact"
        )


def _free_name(pipe: Any, artifact: Artifact, name: str | None) -> str:
    there = list_erasures(pipe)
    for applied in there:
        if applied.digest == artifact.digest:
            raise ConfigError(
                f"{artifact.origin} is already on this pipeline as {applied.name!r}; expected each erasure "
                f"once; change its strength with set_erasure_scale(pipe, {applied.name!r}, ...)"
            )
    taken = {applied.name for applied in there} | _sealed_names(pipe)
    if name is None:
        return _made_name(artifact, taken)
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name in taken:
        why = "is already on this pipeline" if name in taken else "is no name"
        raise ConfigError(
            f"the name {name!r} {why}; expected a free one of letters, digits and -_.+; give another name"
        )
    return name


def _sealed_names(pipe: Any) -> set[str]:
    """Names of the erasures that the components came with; one loaded on top needs another."""
    modules = [getattr(pipe, part, None) for part in ERASABLE]
    seals = [getattr(unwrapped(m), SEAL_NAME, None) for m in modules if isinstance(m, nn.Module)]
    return {erasure.name for seal in seals for erasure in getattr(seal, "erasures", ())}


def _made_name(artifact: Artifact, taken: set[str]) -> str:
    words = [re.sub(r"[^A-Za-z0-9]+", "-", concept).strip("-") for concept in artifact.manifest.concept_names]
    readable = [word for word in words if word][:3]
    start = (
        "+".join(readable)[:80] if len(readable) == len(words) else f"{artifact.manifest.method}-{len(words)}"
    )
    names = (start if number == 1 else f"{start}-{number}" for number in range(1, len(taken) + 2))
    return next(name for name in names if name not in taken)
