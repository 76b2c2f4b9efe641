"""Names of weight files in diffusers: `model.safetensors`, `model.fp16-00001-of-00002.safetensors`."""

from __future__ import annotations

import re
from collections.abc import Iterable

_WEIGHTS = re.compile(r"[\w\-]+(\.(?P<variant>[A-Za-z0-9_]+))?\.safetensors")
_SHARD = re.compile(r"-\d{5}-of-\d{5}")


def variant_of(names: Iterable[str]) -> str | None:
    """The variant as which all weights of a pipeline are stored, `fp16`; None where it is none or several.

    Args:
        names: Paths of files with "/"; those that hold no weights are passed over.
    """
    matches = [_WEIGHTS.fullmatch(_SHARD.sub("", name.rpartition("/")[2])) for name in names]
    variants = {match["variant"] for match in matches if match is not None}
    return variants.pop() if len(variants) == 1 else None
