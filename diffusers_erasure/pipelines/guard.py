"""Is what must be erased in this pipeline still erased? Asked before every call, in about a millisecond.

Four kinds of components count:

    edited      an artifact was loaded here; the record on the module knows base and changes
                (`artifacts.verify`)
    sealed      the weights came erased (a robust encoder, a saved pipeline); the seal knows their fingerprint
    unverified  a text encoder that says that it is erased, with nothing that binds its weights to that
    missing     an edited or sealed one was here and was exchanged for something else

A pipeline that never had an erasure warns once and draws; one that lost its last one refuses.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

from torch import nn

from diffusers_erasure.artifacts.apply import ERASABLE, AppliedErasure, list_erasures, note_loaded
from diffusers_erasure.artifacts.record import LEDGER_NAME, record_of
from diffusers_erasure.artifacts.tensors import unwrapped
from diffusers_erasure.artifacts.verify import (
    ComponentReport,
    ErasureState,
    VerificationReport,
    guard_erasures,
    verify_loaded,
)
from diffusers_erasure.encoders import EncoderErasure
from diffusers_erasure.encoders.seal import ComponentSeal, seal_of
from diffusers_erasure.errors import ErasureNotActiveError

from .session import session_of

TEXT_ENCODERS = ("text_encoder", "text_encoder_2")


class ErasureMissingWarning(UserWarning):
    """An erased pipeline draws without an erasure, or without being verified."""


def all_erasures(pipe: Any) -> tuple[AppliedErasure, ...]:
    """Every erasure of a pipeline: those that its components came with, then those that were loaded."""
    return (*_sealed(pipe), *_unverified(pipe).values(), *list_erasures(pipe))


def _sealed(pipe: Any) -> list[AppliedErasure]:
    """Erasures that the components came with; parts of one erasure have its name and its digest."""
    found: dict[tuple[str, str], AppliedErasure] = {}
    for part, (_, seal) in sealed_parts(pipe).items():
        for erasure in seal.erasures:
            known = found.get((erasure.name, erasure.digest))
            parts = (*(known.components if known is not None else ()), part)
            found[erasure.name, erasure.digest] = replace(erasure, components=tuple(dict.fromkeys(parts)))
    return list(found.values())


def _unverified(pipe: Any) -> dict[str, AppliedErasure]:
    """Erasures of encoders that were loaded unverified, as was asked for: stated, not known."""
    found = {}
    for part in TEXT_ENCODERS:
        module = _as_it_came(getattr(pipe, part, None))
        stated = getattr(module, "erasure", None)
        if isinstance(stated, EncoderErasure) and seal_of(module) is None:
            found[part] = stated.applied("unverified", part)
    return found


def sealed_parts(pipe: Any) -> dict[str, tuple[nn.Module, ComponentSeal]]:
    """Components that came erased: the module that carries the seal (below later edits), and the seal."""
    found = {}
    for part in ERASABLE:
        module = _as_it_came(getattr(pipe, part, None))
        seal = seal_of(module)
        if module is not None and seal is not None:
            found[part] = (module, seal)
    return found


def _as_it_came(module: object) -> nn.Module | None:
    """The module below the edits that were loaded here."""
    if not isinstance(module, nn.Module):
        return None
    record = record_of(module)
    return unwrapped(module if record is None else record.base)


def erased_in_text(pipe: Any) -> tuple[AppliedErasure, ...]:
    """The erasures that live in a text encoder, which foreign embeddings would bypass."""
    return tuple(erasure for erasure in all_erasures(pipe) if set(erasure.components) & set(TEXT_ENCODERS))


def verify_all(pipe: Any, *, name: str | None = None, thorough: bool = True) -> VerificationReport:
    """One report over everything that must be erased in a pipeline.

    Args:
        pipe: Any pipeline.
        name: Only the erasure of this name.
        thorough: Compare all weights; else only where something moved.
    """
    sealed = _sealed_reports(pipe, thorough=thorough)
    if name is not None:
        return _verify_named(pipe, name, sealed)
    if not _has_loaded(pipe):
        return _report(sealed, ()) if sealed else verify_loaded(pipe)
    return _joined(sealed, verify_loaded(pipe) if thorough else guard_erasures(pipe))


def _verify_named(pipe: Any, name: str, sealed: dict[str, ComponentReport]) -> VerificationReport:
    came = [*_sealed(pipe), *_unverified(pipe).values()]
    parts = [part for erasure in came if erasure.name == name for part in erasure.components]
    reports = {part: sealed[part] for part in parts}
    loaded = {erasure.name for erasure in list_erasures(pipe)} | set(vars(pipe).get(LEDGER_NAME, {}))
    if name in loaded or not reports:
        return _joined(reports, verify_loaded(pipe, name=name))
    return _report(reports, ())


def _joined(sealed: dict[str, ComponentReport], loaded: VerificationReport) -> VerificationReport:
    """One report over what came erased and what was loaded here."""
    faulty = any(report.state is not ErasureState.VERIFIED for report in sealed.values())
    if faulty and loaded.state is ErasureState.VERIFIED:
        return _report({**loaded.components, **sealed}, loaded.notes)
    return replace(loaded, components={**sealed, **loaded.components})


def note_erasures(pipe: Any) -> None:
    """Remember which of a pipeline's components are erased, so that one that is exchanged is missed.

    Args:
        pipe: One of our pipelines.
    """
    session = session_of(pipe)
    session.seals.update({part: seal for part, (_, seal) in sealed_parts(pipe).items()})
    note_loaded(pipe)
    session.required |= bool(_has_loaded(pipe) or session.seals or _unverified(pipe))


def check_before_call(pipe: Any, *, allow_unverified: bool) -> None:
    """Let a call pass only if what must be erased is erased; see the module's text.

    Args:
        pipe: One of our pipelines.
        allow_unverified: Draw all the same; a warning says so.
    """
    session = session_of(pipe)
    note_erasures(pipe)
    if not _has_loaded(pipe) and not session.seals and not _unverified(pipe):
        fault = _without_erasure(pipe)
    else:
        fault = _fault(pipe)
    if fault is None:
        return
    if not (allow_unverified or session.allow_unverified):
        raise ErasureNotActiveError(f"{fault}; or pass allow_unverified=True to draw all the same")
    warnings.warn(f"drawing unverified, as asked: {fault}", ErasureMissingWarning, stacklevel=4)


def _fault(pipe: Any) -> str | None:
    """What is wrong with the erasures of a pipeline, also where its weights cannot be read."""
    try:
        report = verify_all(pipe, thorough=False)
    except ErasureNotActiveError as unreadable:
        return str(unreadable)
    return None if report.state is ErasureState.VERIFIED else report.message


def _without_erasure(pipe: Any) -> str | None:
    """What is to be said of a pipeline that has no verified erasure; None where that is accepted."""
    session = session_of(pipe)
    if session.waived:
        return None
    if session.required:
        return (
            "the pipeline was erased, but its last erasure is gone; expected one; load it again with "
            "pipe.load_erasure(...)"
        )
    if not session.warned:
        session.warned = True
        warnings.warn(
            f"this {type(pipe).__name__} has no erasure and draws everything; load one with "
            "pipe.load_erasure(...), or make it with from_pretrained(..., require_erasure=False)",
            ErasureMissingWarning,
            stacklevel=5,
        )
    return None


def _has_loaded(pipe: Any) -> bool:
    return bool(vars(pipe).get(LEDGER_NAME)) or any(
        record_of(getattr(pipe, part, None)) is not None for part in ERASABLE
    )


def _sealed_reports(pipe: Any, *, thorough: bool) -> dict[str, ComponentReport]:
    parts = sealed_parts(pipe)
    expected = {**session_of(pipe).seals, **{part: seal for part, (_, seal) in parts.items()}}
    reports = {}
    for part, seal in expected.items():
        wanted = seal.record.fingerprint
        if part not in parts:
            note = "the erased component was exchanged for one that is not; put it back"
            reports[part] = ComponentReport(ErasureState.ABSENT, wanted, "another component", note)
        elif seal.holds(parts[part][0], thorough=thorough):
            reports[part] = ComponentReport(ErasureState.VERIFIED, wanted, wanted)
        else:
            found = seal.found(parts[part][0])
            reports[part] = ComponentReport(ErasureState.MODIFIED, wanted, found, "its weights were changed")
    for part in _unverified(pipe):
        note = (
            "it was loaded unverified, and nothing binds its weights to what it says is erased; load one "
            "that is verified, or import it with `diffusers-erasure import`"
        )
        reports[part] = ComponentReport(ErasureState.MODIFIED, "a fingerprint", "none", note)
    return reports


def _report(components: dict[str, ComponentReport], notes: tuple[str, ...]) -> VerificationReport:
    states = {report.state for report in components.values()}
    state = states.pop() if len(states) == 1 else ErasureState.MODIFIED
    faults = [
        f"{part} is {report.state.value}: expected {report.expected[:16]}, found {report.found[:16]} "
        f"({report.note})"
        for part, report in components.items()
        if report.state is not ErasureState.VERIFIED
    ]
    if not faults:
        return VerificationReport(state, components, f"{', '.join(components)} as saved", notes)
    message = (
        f"the erasure of this pipeline is {state.value}: {'; '.join(faults)}; put the component back, or "
        "load the pipeline again; a LoRA may be loaded, but not fused, which changes the weights"
    )
    return VerificationReport(state, components, message, notes)
