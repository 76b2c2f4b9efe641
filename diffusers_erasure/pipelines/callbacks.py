"""Looking on while a pipeline draws: the latents have to stay finite, the embeddings those that were checked.

The only door into a running stock pipeline is `callback_on_step_end`. It may also hand in other
`prompt_embeds`, or change those that it sees in place; such embeddings are held to the same rule as those of
the call. The picture is looked at on its way into the image processor, before anything turns what is not
finite black.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from torch import Tensor

from diffusers_erasure.errors import ErasureBypassError

from .embeddings import STEP_EMBEDDINGS, EmbeddingNotes
from .own_embeddings import are_own
from .text_path import check_finite

CALLBACK = "callback_on_step_end"
INPUTS = "callback_on_step_end_tensor_inputs"
_installing = Lock()


def watched_call(pipe: Any, call: inspect.BoundArguments, *, check_embeddings: bool) -> None:
    """Put a look-on around the step callback of a call that is about to be made.

    Args:
        pipe: Pipeline that will be called.
        call: Its arguments; changed in place.
        check_embeddings: Refuse embeddings that a callback changes, or hands in although the pipeline did not
            make them.
    """
    inner = call.arguments.get(CALLBACK)
    if isinstance(inner, PipelineCallback | MultiPipelineCallbacks):
        call.arguments[INPUTS] = inner.tensor_inputs

    checks = _CallEmbeddings(pipe) if check_embeddings and inner is not None else None

    def look_on(running: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        given = dict(tensors)
        if checks is not None:
            checks.begin(given)
        latents = tensors.get("latents")
        changed: dict[str, Any] = given if inner is None else inner(running, step, timestep, tensors) or {}
        if checks is not None:
            checks.check(given, "changed the given")
            checks.check(changed, "handed in other")
        if step + 1 >= running.num_timesteps and isinstance(latents, Tensor):
            check_finite(latents, "the latents of the last step")
        return changed

    call.arguments[CALLBACK] = look_on


class _CallEmbeddings:
    """The embeddings that one call may use: those that it began with, and the pipeline's own.

    Those that it began with were checked, or allowed, for this call alone.
    """

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe
        self._first: EmbeddingNotes | None = None

    def begin(self, tensors: dict[str, Any]) -> None:
        """Note what the first step was given."""
        if self._first is None:
            self._first = EmbeddingNotes()
            for embeddings in _embeddings(tensors).values():
                self._first.note(embeddings)

    def check(self, tensors: dict[str, Any], verb: str) -> None:
        """Refuse embeddings that are neither, or not any more."""
        for name, embeddings in _embeddings(tensors).items():
            known = self._first is not None and self._first.hold(embeddings)
            if not known and not are_own(self._pipe, embeddings):
                raise ErasureBypassError(
                    f"the step callback {verb} {name}; the erasure lives in the text encoder, which such "
                    "embeddings go around; return those that it was given, unchanged, or pass "
                    "allow_foreign_embeds=True"
                )


def _embeddings(tensors: dict[str, Any]) -> dict[str, Tensor]:
    return {name: tensors[name] for name in STEP_EMBEDDINGS if isinstance(tensors.get(name), Tensor)}


@contextmanager
def watched_pictures(pipe: Any) -> Iterator[None]:
    """Refuse a decoded picture that is not finite, while a pipeline draws, in one thread or in several."""
    with _installing:
        found = pipe.image_processor
        watched = found if isinstance(found, _WatchedProcessor) else _WatchedProcessor(found)
        watched.calls += 1
        pipe.image_processor = watched
    try:
        yield
    finally:
        with _installing:
            watched.calls -= 1
            if watched.calls == 0 and pipe.image_processor is watched:
                pipe.image_processor = watched.stock


class _WatchedProcessor:
    """A pipeline's image processor with a look at what comes in to be finished.

    Attributes:
        stock: The processor itself.
        calls: How many calls are drawing with it now; the last one puts the processor itself back.
    """

    def __init__(self, stock: Any) -> None:
        self.stock = stock
        self.calls = 0

    def postprocess(self, image: Any, *args: Any, **kwargs: Any) -> Any:
        """Check a decoded picture, then finish it as stock."""
        if isinstance(image, Tensor):
            check_finite(image, "the decoded picture")
        return self.stock.postprocess(image, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stock, name)
