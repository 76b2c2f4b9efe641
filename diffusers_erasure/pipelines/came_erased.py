"""Pipelines whose weights came erased: verified as they are loaded, and what cannot be done with them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from diffusers_erasure.artifacts.apply import ERASABLE, list_erasures
from diffusers_erasure.artifacts.record import LEDGER_NAME
from diffusers_erasure.errors import ArtifactIntegrityError, ConfigError, ErasureStateError

from .baked import verify_baked
from .guard import ErasureMissingWarning, all_erasures
from .opening import Opened
from .session import session_of


def verify_or_warn(pipe: Any, opened: Opened, *, allow_unverified: bool) -> None:
    """Compare weights that were saved erased with what their folder says of them.

    Args:
        pipe: The pipeline.
        opened: What it was loaded from; without erased weights there is nothing to do.
        allow_unverified: Warn rather than refuse.

    Raises:
        ArtifactIntegrityError: They differ.
    """
    if opened.baked is None:
        return
    try:
        verify_baked(pipe, opened.baked, where=opened.base)
    except ArtifactIntegrityError as error:
        if not allow_unverified:
            raise
        session = session_of(pipe)
        session.required, session.waived = True, False  # it is not one without an erasure, but a broken one
        warnings.warn(f"loaded unverified, as asked: {error}", ErasureMissingWarning, stacklevel=3)


def refuse_fusing(pipe: Any, components: Sequence[str]) -> None:
    """Refuse to merge a LoRA into erased components, whose weights would not be those promised any more.

    Weights that no erasure touches are the base's own in memory: merging would change the base, and every
    pipeline that shares it, for good.

    Args:
        pipe: The pipeline.
        components: What the LoRA is to be merged into; all that can be erased unless given.

    Raises:
        ErasureStateError: One of them is erased.
    """
    erased = {part for erasure in all_erasures(pipe) for part in erasure.components}
    hit = sorted(erased & set(components or ERASABLE))
    if hit:
        raise ErasureStateError(
            f"a LoRA cannot be fused into {' and '.join(hit)}, which is erased: its weights would not be "
            "those of the erasure any more; expected it loaded and not fused (load_lora_weights alone), or "
            "fused into the base before the erasure is put on"
        )


def refuse_baked(pipe: Any, name: str | None, verb: str) -> None:
    """Refuse to take off, or scale, an erasure whose base is not here.

    Args:
        pipe: The pipeline.
        name: Which erasure; None for all.
        verb: What was to be done with it, as "unloaded".

    Raises:
        ConfigError: It came with the weights.
    """
    loaded = {erasure.name for erasure in list_erasures(pipe)} | set(vars(pipe).get(LEDGER_NAME, {}))
    baked = [erasure.name for erasure in all_erasures(pipe) if erasure.name not in loaded]
    if name in baked or (name is None and baked and not loaded):
        raise ConfigError(
            f"the erasure {name or baked[0]!r} came with the weights and cannot be {verb}: its base is not "
            "here; load the base pipeline and the artifact instead"
        )
