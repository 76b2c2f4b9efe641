"""Pipelines whose weights came erased: verified as they are loaded, and what cannot be done with them."""

from __future__ import annotations

import warnings
from typing import Any

from diffusers_erasure.artifacts.apply import list_erasures
from diffusers_erasure.artifacts.record import LEDGER_NAME
from diffusers_erasure.errors import ArtifactIntegrityError, ConfigError

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
