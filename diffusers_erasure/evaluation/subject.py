"""What is compared: a base pipeline, the same with an erasure, and, as a control, with hardly any of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from diffusers_erasure.artifacts.apply import load_erasure
from diffusers_erasure.artifacts.artifact import Artifact
from diffusers_erasure.pipelines.base import on_components


@dataclass(frozen=True)
class Subject:
    """What is compared.

    Attributes:
        base: Pipeline without the erasure.
        erased: Pipeline in which the artifact is loaded.
        artifact: What is loaded there.
        model: Name of the base model, for the report.
    """

    base: Any
    erased: Any
    artifact: Artifact
    model: str


def sibling(pipe: Any) -> Any:
    """A second pipeline on the same components; loading an erasure into it leaves the first alone."""
    copy = on_components(type(pipe), pipe)
    copy.set_progress_bar_config(**getattr(pipe, "_progress_bar_config", {}))
    return copy


def weak_eraser(subject: Subject, scale: float) -> Any:
    """The artifact at a smaller strength, which erases less.

    Args:
        subject: What is evaluated; left as it is.
        scale: Strength, between 0 and 1.
    """
    weak = sibling(subject.base)
    load_erasure(weak, subject.artifact, scale=scale)
    return weak
