"""What a pipeline remembers of its erasures beside what its components carry."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from diffusers_erasure.encoders.seal import ComponentSeal

SESSION_NAME = "erasure_session"


@dataclass
class ErasureSession:
    """One pipeline's permissions and memory; a plain attribute of the pipeline.

    Attributes:
        required: An erasure was given to this pipeline, so it must not draw without one.
        waived: It was made with `require_erasure=False`.
        allow_unverified: It was made with `allow_unverified=True`.
        warned: It has warned that it has no erasure.
        base: What it was loaded from, where that may be told: a Hub id, or "embedded"; empty for a folder.
        seals: Seal per component that came erased, to notice when the component is exchanged.
    """

    required: bool = False
    waived: bool = False
    allow_unverified: bool = False
    warned: bool = False
    base: str = ""
    seals: dict[str, ComponentSeal] = field(default_factory=dict)


def session_of(pipe: Any) -> ErasureSession:
    """The pipeline's session, made when it is first needed."""
    session = vars(pipe).get(SESSION_NAME)
    if not isinstance(session, ErasureSession):
        session = ErasureSession()
        vars(pipe)[SESSION_NAME] = session
    return session
