"""Which prompt embeddings a pipeline made itself.

An erasure that lives in the text encoder is bypassed by embeddings from elsewhere. Every tensor that
`encode_prompt` computes is noted here, weakly, with the encoders and the erasures that it came from; a tensor
counts as own while it is that tensor (or a view of it), unchanged, and encoders and erasures are the same.
"""

from __future__ import annotations

import weakref
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

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


_known: WeakIdKeyDictionary = WeakIdKeyDictionary()


def note_own(embeddings: Tensor, origin: Origin) -> None:
    """Remember that a pipeline computed these embeddings."""
    _known[_root(embeddings)] = (_version(embeddings), origin)


def is_own(embeddings: Tensor, origin: Origin) -> bool:
    """Whether these embeddings, or those they are a view of, come from this origin and are unchanged."""
    noted = _known.get(_root(embeddings))
    return bool(noted == (_version(embeddings), origin))


def _root(tensor: Tensor) -> Tensor:
    """The tensor whose memory this one looks at; views share its version counter."""
    return tensor if tensor.is_inference() or tensor._base is None else tensor._base


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version
