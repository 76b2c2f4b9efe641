"""Which embeddings an erased pipeline takes: those that it made itself, with what it has now.

Functions of a pipeline rather than methods, since they are no part of what users call: `encode_prompt` notes
what it makes, a call and its step callback ask. What a tensor is known by stands in `embeddings`.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from diffusers_erasure.artifacts.apply import AppliedErasure
from diffusers_erasure.errors import ErasureBypassError

from .embeddings import OWN, Origin
from .guard import TEXT_ENCODERS, erased_in_text


def note_own(pipe: Any, embeddings: Tensor | None) -> None:
    """Remember embeddings that a pipeline computed, so that they may be passed back in."""
    if embeddings is not None:
        OWN.note(embeddings, _origin(pipe))


def are_own(pipe: Any, embeddings: Tensor) -> bool:
    """Whether a pipeline computed these embeddings, with the encoders and erasures that it has now."""
    return OWN.hold(embeddings, _origin(pipe))


def will_be_own(pipe: Any, given: Tensor | None) -> bool:
    """Whether embeddings that `encode_prompt` makes of what it was given are the pipeline's own."""
    return given is None or are_own(pipe, given)


def skips_erasure(pipe: Any, clip_skip: int | None) -> bool:
    """Whether states of an earlier layer than the one that an erasure was made for are asked for."""
    return clip_skip is not None and bool(erased_in_text(pipe))


def refuse_foreign(pipe: Any, given: Any, argument: str, erasures: tuple[AppliedErasure, ...]) -> None:
    """Refuse embeddings that a pipeline did not make, which would go around its erased text encoder.

    Args:
        pipe: One of our pipelines.
        given: What was passed; None passes.
        argument: Name of the argument.
        erasures: Those that live in a text encoder.

    Raises:
        ErasureBypassError: They are not the pipeline's own.
    """
    if given is None or (isinstance(given, Tensor) and are_own(pipe, given)):
        return
    names = ", ".join(erasure.name for erasure in erasures)
    raise ErasureBypassError(
        f"{argument} was not made by this pipeline's encode_prompt with its present erasures, and the "
        f"erasure of {names} lives in the text encoder, which such embeddings go around; pass the "
        "prompt, or what encode_prompt returns, or allow_foreign_embeds=True"
    )


def _origin(pipe: Any) -> Origin:
    encoders = [getattr(pipe, part, None) for part in TEXT_ENCODERS]
    return Origin.of([encoder for encoder in encoders if encoder is not None], erased_in_text(pipe))
