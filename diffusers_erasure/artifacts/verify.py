"""Whether a pipeline runs the weights that an erasure promises.

    VERIFIED    bytes, names, values and the answer to the canary are those of the erased model
    MODIFIED    something was changed since: an in-place edit, a fused LoRA, a merge, another component
    ABSENT      the weights are those of the base

`verify_loaded` compares everything, for pipelines that were erased here (by what was recorded) and for
others, such as one loaded from a saved erased folder (by the artifact's fingerprints). `guard_erasures` is
for every call: it looks only at what a change can hardly leave alone, and compares everything when that
moved.

A change of dtype keeps an erasure: the weights are then the rounded ones, which is checked exactly. Where
rounding was done elsewhere, so that the exact result is not known, the canary decides.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffusers_erasure.errors import ConfigError, ErasureNotActiveError

from .apply import ERASABLE
from .artifact import Artifact
from .composition import canary_distance
from .door import load_artifact
from .fingerprint import ROUNDED_TYPES, leaves, quick_fingerprint, root, rounded
from .record import LEDGER_NAME, Comparison, ComponentRecord, compare, record_of
from .tensors import active_adapters, added_names, component_tensors, unwrapped, without_added_tokens


class ErasureState(StrEnum):
    """What is true of an erasure in a pipeline."""

    VERIFIED = "verified"
    MODIFIED = "modified"
    ABSENT = "absent"


@dataclass(frozen=True)
class ComponentReport:
    """The state of one component: the fingerprint it must have, the one it has, and why."""

    state: ErasureState
    expected: str
    found: str
    note: str = ""


@dataclass(frozen=True)
class VerificationReport:
    """What `verify_erasure` found.

    Attributes:
        state: The worst that is true of the erasures that were looked at.
        components: Report per component.
        message: The state in a sentence, with the repair if one is needed.
        notes: What else adds to the weights or weakens the erasure (adapters, scale, transfer).
    """

    state: ErasureState
    components: Mapping[str, ComponentReport] = field(default_factory=dict)
    message: str = ""
    notes: tuple[str, ...] = ()

    def raise_unless_verified(self) -> None:
        """Raise `ErasureNotActiveError` with component, expected, found and repair."""
        if self.state is not ErasureState.VERIFIED:
            raise ErasureNotActiveError(self.message)


def verify_loaded(
    pipe: Any,
    source: Artifact | str | Path | None = None,
    *,
    name: str | None = None,
    subfolder: str | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> VerificationReport:
    """Compare all weights of the erased components with what they must be, and ask the canary.

    It knows what was loaded, not what components came with: `diffusers_erasure.verify_erasure` knows both.

    Args:
        pipe: Any pipeline.
        source: The artifact that must be there; None checks everything that was loaded here.
        name: Only the erasure of this name.
        subfolder: See `load_artifact`, as all that follow.
        revision: Branch, tag or commit.
        token: Hub token.
        cache_dir: Where downloads are kept.
        local_files_only: Whether only the cache may be used.
    """
    if source is None:
        wanted = _loaded(pipe, name)
    else:
        artifact = (
            source
            if isinstance(source, Artifact)
            else load_artifact(
                source,
                subfolder=subfolder,
                revision=revision,
                token=token,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
            )
        )
        wanted = {name or ", ".join(artifact.manifest.concept_names): artifact}
    if not wanted:
        return VerificationReport(
            ErasureState.ABSENT,
            message="no erasure was loaded into this pipeline; expected one; call load_erasure(pipe, ...), "
            "or pass the artifact that the weights should be compared with",
        )
    return _report(pipe, wanted)


def guard_erasures(pipe: Any) -> VerificationReport:
    """The cheap check before a call: full comparison only where something moved since the last one.

    A weight whose sampled values, address, version and dtype are unchanged counts as unchanged.
    """
    records = _records(pipe)
    promised = {part for artifact in vars(pipe).get(LEDGER_NAME, {}).values() for part in artifact.edits}
    found = [(part, unwrapped(getattr(pipe, part)), record) for part, record in records.items()]
    named = {name for record in records.values() for name in record.names}
    complete = promised <= set(records) and set(vars(pipe).get(LEDGER_NAME, {})) <= named
    switched_off = any(applied.scale == 0 for record in records.values() for applied in record.erasures)
    if not found or not complete or switched_off:
        return verify_loaded(pipe)
    if not all(_quietly_unchanged(module, record) for _, module, record in found):
        return verify_loaded(pipe)
    notes = tuple(note for part, module, record in found for note in _notes(part, module, record, quick=True))
    return VerificationReport(
        ErasureState.VERIFIED, message="nothing has changed since it was verified", notes=notes
    )


def _quietly_unchanged(module: nn.Module, record: ComponentRecord) -> bool:
    if record.guard is None:
        return False
    if record.guard.unchanged():
        return True
    if record.guard.only_moved():
        record.guard = quick_fingerprint(module)
        return True
    return False


def _loaded(pipe: Any, name: str | None) -> dict[str, Artifact]:
    """Everything that was loaded into the pipeline, also where the component was exchanged since."""
    recorded = {a.name: a.artifact for record in _records(pipe).values() for a in record.erasures}
    known: dict[str, Artifact] = {**vars(pipe).get(LEDGER_NAME, {}), **recorded}
    if name is None:
        return known
    if name not in known:
        raise ConfigError(
            f"no erasure {name!r} was loaded into this pipeline; expected one of: "
            f"{', '.join(known) or 'none'}; see list_erasures(pipe)"
        )
    return {name: known[name]}


def _records(pipe: Any) -> dict[str, ComponentRecord]:
    found = {part: record_of(getattr(pipe, part, None)) for part in ERASABLE}
    return {part: record for part, record in found.items() if record is not None}


def _report(pipe: Any, wanted: Mapping[str, Artifact]) -> VerificationReport:
    components: dict[str, ComponentReport] = {}
    notes: list[str] = []
    compared: dict[str, Comparison] = {}
    for artifact in wanted.values():
        for part in artifact.edits:
            report = _component_report(pipe, part, artifact, compared)
            components[part] = _worse(components.get(part), report)
    for part, record in _records(pipe).items():
        notes += _notes(part, unwrapped(getattr(pipe, part)), record)
    state = _overall([report.state for report in components.values()])
    return VerificationReport(
        state, components, _message(state, components, wanted), tuple(dict.fromkeys(notes))
    )


def _component_report(
    pipe: Any, part: str, artifact: Artifact, compared: dict[str, Comparison]
) -> ComponentReport:
    module = getattr(pipe, part, None)
    expected = artifact.spec(part).erased_fingerprint
    if not isinstance(module, nn.Module):
        return ComponentReport(ErasureState.ABSENT, expected, "nothing", "the pipeline has no such component")
    module, record = unwrapped(module), record_of(module)
    if record is not None and any(a.artifact.digest == artifact.digest for a in record.erasures):
        if part not in compared:
            compared[part] = compare(module, record)
        return _recorded(part, module, record, artifact, compared[part])
    return _unrecorded(part, module, artifact)


def _recorded(
    part: str, module: nn.Module, record: ComponentRecord, artifact: Artifact, found: Comparison
) -> ComponentReport:
    """The state of a component that was erased in this process."""
    if found.changed:
        state = ErasureState.ABSENT if found.as_base else ErasureState.MODIFIED
        shown = ", ".join(found.changed[:3])
        return ComponentReport(
            state, found.expected, found.found, f"{len(found.changed)} weights were changed: {shown}"
        )
    applied = next(a for a in record.erasures if a.artifact.digest == artifact.digest)
    if applied.scale == 0:
        return ComponentReport(ErasureState.ABSENT, found.expected, found.found, "its scale is 0")
    alone = len(record.erasures) == 1 and applied.scale == 1 and not applied.transfer
    offloaded = any(parameter.is_meta for parameter in module.parameters())
    if alone and not offloaded and not added_names(module):
        share = canary_distance(part, module, artifact)
        if share > 1:
            note = f"the weights are right, but the answer to the canary is {share:.3g} times too far"
            return ComponentReport(ErasureState.MODIFIED, found.expected, found.found, note)
    record.guard = quick_fingerprint(module)
    return ComponentReport(
        ErasureState.VERIFIED, found.expected, found.found, "in another dtype" if found.rounded else ""
    )


def _unrecorded(part: str, module: nn.Module, artifact: Artifact) -> ComponentReport:
    """The state of a component that came from elsewhere, by the artifact's fingerprints and canary."""
    spec = artifact.spec(part)
    rows = spec.config.get("vocab_size")
    tensors = without_added_tokens(component_tensors(module), rows if isinstance(rows, int) else None)
    found = root(leaves(tensors))
    candidates = [found]
    low = _held_by(tensors)
    if low is not None:
        candidates.append(root(leaves(rounded(tensors, low))))
    if {spec.erased_fingerprint, *spec.erased_rounded.values()} & set(candidates):
        return ComponentReport(ErasureState.VERIFIED, spec.erased_fingerprint, found)
    if {spec.base_fingerprint, *spec.base_rounded.values()} & set(candidates):
        return ComponentReport(
            ErasureState.ABSENT, spec.erased_fingerprint, found, "the weights are those of the base"
        )
    state, note = ErasureState.MODIFIED, "the weights are neither the erased nor the base ones"
    if low is not None and not added_names(module) and artifact.span(part) > 0:
        erased, base = (canary_distance(part, module, artifact, to=to) for to in ("erased", "base"))
        if erased <= 1 < base:
            state, note = ErasureState.VERIFIED, "rounded weights, verified by the canary"
        elif base <= 1 < erased:
            state, note = ErasureState.ABSENT, "rounded weights, those of the base by the canary"
    return ComponentReport(state, spec.erased_fingerprint, found, note)


def _held_by(tensors: Mapping[str, Tensor]) -> torch.dtype | None:
    """The half precision that holds all values exactly, if one does."""
    floating = [tensor.detach() for tensor in tensors.values() if tensor.is_floating_point()]
    for dtype in ROUNDED_TYPES.values():
        if all(torch.equal(tensor.to(dtype).to(tensor.dtype), tensor) for tensor in floating):
            return dtype
    return None


def _notes(part: str, module: nn.Module, record: ComponentRecord, *, quick: bool = False) -> list[str]:
    notes = [f"{a.name} is at scale {a.scale:g} on {part}" for a in record.erasures if a.scale != 1]
    notes += [f"{a.name} was transferred to another base on {part}" for a in record.erasures if a.transfer]
    adapted = bool(getattr(module, "peft_config", None)) if quick else bool(active_adapters(module))
    if adapted:
        notes.append(f"LoRA adapters add to the erased weights of {part}")
    return notes


def _worse(first: ComponentReport | None, second: ComponentReport) -> ComponentReport:
    order = (ErasureState.VERIFIED, ErasureState.MODIFIED, ErasureState.ABSENT)
    if first is None or order.index(second.state) > order.index(first.state):
        return second
    return first


def _overall(states: list[ErasureState]) -> ErasureState:
    """One state for all; erasures that are only partly there count as modified."""
    return states[0] if len(set(states)) == 1 else ErasureState.MODIFIED


def _message(
    state: ErasureState, components: Mapping[str, ComponentReport], wanted: Mapping[str, Artifact]
) -> str:
    names = ", ".join(wanted)
    if state is ErasureState.VERIFIED:
        return f"{names}: {', '.join(components)} as the artifact promises"
    faults = "; ".join(
        f"{part} is {report.state.value}: expected {report.expected[:16]}, found {report.found[:16]}"
        + (f" ({report.note})" if report.note else "")
        for part, report in components.items()
        if report.state is not ErasureState.VERIFIED
    )
    return (
        f"the erasure {names} is {state.value} in this pipeline: {faults}; put the component back, or "
        "unload_erasure(pipe) and load_erasure(pipe, ...) again; after fusing a LoRA, which may have reached "
        "the base too, load the pipeline again and leave the LoRA unfused"
    )
