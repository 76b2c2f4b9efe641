"""Looking on while a pipeline draws: the latents have to stay finite, the embeddings those that were checked.

The only door into a running stock pipeline is `callback_on_step_end`. It may also hand in other
`prompt_embeds`; such embeddings are held to the same rule as those of the call. The picture is looked at on
its way into the image processor, before anything turns what is not finite black.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from torch import Tensor

from diffusers_erasure.errors import ErasureBypassError

from .embeddings import STEP_EMBEDDINGS
from .text_path import check_finite

CALLBACK = "callback_on_step_end"
INPUTS = "callback_on_step_end_tensor_inputs"


def watched_call(pipe: Any, call: inspect.BoundArguments, *, check_embeddings: bool) -> None:
    """Put a look-on around the step callback of a call that is about to be made.

    Args:
        pipe: Pipeline that will be called.
        call: Its arguments; changed in place.
        check_embeddings: Refuse embeddings that a callback hands in and that the pipeline did not make.
    """
    inner = call.arguments.get(CALLBACK)
    if isinstance(inner, PipelineCallback | MultiPipelineCallbacks):
        call.arguments[INPUTS] = inner.tensor_inputs

    def look_on(running: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        seen = {name: tensors[name] for name in STEP_EMBEDDINGS if isinstance(tensors.get(name), Tensor)}
        for embeddings in seen.values():
            pipe.note_own_embeddings(embeddings)
        latents = tensors.get("latents")
        changed: dict[str, Any] = (
            dict(tensors) if inner is None else inner(running, step, timestep, tensors) or {}
        )
        if check_embeddings and inner is not None:
            _check_handed_in(pipe, changed)
        if step + 1 >= running.num_timesteps and isinstance(latents, Tensor):
            check_finite(latents, "the latents of the last step")
        return changed

    call.arguments[CALLBACK] = look_on


def _check_handed_in(pipe: Any, changed: dict[str, Any]) -> None:
    for name in STEP_EMBEDDINGS:
        given = changed.get(name)
        if isinstance(given, Tensor) and not pipe.owns_embeddings(given):
            raise ErasureBypassError(
                f"the step callback handed in other {name}; the erasure lives in the text encoder, which "
                "such embeddings go around; return those that it was given, or pass allow_foreign_embeds=True"
            )


@contextmanager
def watched_pictures(pipe: Any) -> Iterator[None]:
    """Refuse a decoded picture that is not finite, while a pipeline draws."""
    stock = pipe.image_processor
    pipe.image_processor = _WatchedProcessor(stock)
    try:
        yield
    finally:
        pipe.image_processor = stock


class _WatchedProcessor:
    """A pipeline's image processor with a look at what comes in to be finished."""

    def __init__(self, stock: Any) -> None:
        self._stock = stock

    def postprocess(self, image: Any, *args: Any, **kwargs: Any) -> Any:
        """Check a decoded picture, then finish it as stock."""
        if isinstance(image, Tensor):
            check_finite(image, "the decoded picture")
        return self._stock.postprocess(image, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stock, name)
