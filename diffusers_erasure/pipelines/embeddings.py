"""Which prompt embeddings a pipeline made itself.

An erasure that lives in the text encoder is bypassed by embeddings from elsewhere. Every tensor that
`encode_prompt` computes is noted here, weakly, with the encoders and the erasures that it came from; a tensor
counts as own while it is that tensor (or a view of it), unchanged, and encoders and erasures are the same.
Unchanged is what has the same bytes: version counters miss edits through `.data` and numpy, and stand still
in inference mode.
"""

from __future__ import annotations

import weakref
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from diffusers_erasure.artifacts.fingerprint import leaf

STATES = ("prompt_embeds", "negative_prompt_embeds")
POOLED = ("pooled_prompt_embeds", "negative_pooled_prompt_embeds")
EMBEDDING_ARGUMENTS = (*STATES, *POOLED)
"""Arguments of calls that take embeddings; the pooled ones are SDXL's."""
STEP_EMBEDDINGS = (*EMBEDDING_ARGUMENTS, "add_text_embeds")
"""The same while a pipeline draws; SDXL calls both pooled ones together `add_text_embeds` there."""


@dataclass(frozen=True)
class Origin:
    """Where embeddings came from."""

    encoders: tuple[weakref.ref[nn.Module], ...]
    erasures: Hashable

    @classmethod
    def of(cls, encoders: Sequence[nn.Module], erasures: Hashable) -> Origin:
        """The origin of what these encoders compute now."""
        return cls(tuple(weakref.ref(encoder) for encoder in encoders), erasures)


class EmbeddingNotes:
    """Embeddings as they were when they were noted, held weakly."""

    def __init__(self) -> None:
        self._noted: WeakIdKeyDictionary = WeakIdKeyDictionary()

    def note(self, embeddings: Tensor, origin: Origin | None = None) -> None:
        """Remember these embeddings, and where they came from."""
        root = _root(embeddings)
        self._noted[root] = (leaf("", root), origin)

    def hold(self, embeddings: Tensor, origin: Origin | None = None) -> bool:
        """Whether these, or those they are a view of, were noted with this origin and are unchanged."""
        root = _root(embeddings)
        noted = self._noted.get(root)
        return noted is not None and noted == (leaf("", root), origin)


OWN = EmbeddingNotes()
"""What the pipelines of this process computed."""


def _root(tensor: Tensor) -> Tensor:
    """The tensor whose memory this one looks at."""
    return tensor if tensor.is_inference() or tensor._base is None else tensor._base
