"""What an erasure maps to what, as a document beside its artifact, so that others can be composed with it.

    shift, gram      D and the sum of w e^m e^mᵀ (`closed_form.MappingStatistics`), `(width, width)` float64
    energy, count    numbers, float64
    text_encoder     (metadata) fingerprints of the text encoders that the states come from

At Stable Diffusion 1.x's width these are 9.4 MB, at SDXL's 67 MB. They hold sums over text states, no prompt.
"""

from __future__ import annotations

import json

import torch
from safetensors.torch import save

from diffusers_erasure.artifacts.edits import check_values
from diffusers_erasure.artifacts.fingerprint import fingerprint
from diffusers_erasure.artifacts.manifest import TensorSpec
from diffusers_erasure.artifacts.safebytes import check_table, parse_header, tensors_from
from diffusers_erasure.diffusion import DiffusionComponents
from diffusers_erasure.errors import ArtifactFormatError, BaseModelMismatchError

from .closed_form import MappingStatistics

STATISTICS_NAME = "statistics.safetensors"
MAX_STATISTICS_BYTES = 2**28
"""Two matrices of width 4096; SDXL's width is 2048."""
_ENCODER = "text_encoder"
_ROUNDING = 1e-9
"""How far a Gram matrix may be from symmetric, as a share of its largest entry."""


def pack_statistics(mapping: MappingStatistics, components: DiffusionComponents) -> bytes:
    """Content of the document.

    Args:
        mapping: The statistics.
        components: Whose text encoders gave the states.
    """
    numbers = {"energy": mapping.energy, "count": mapping.count}
    tensors = {
        "shift": mapping.shift.contiguous(),
        "gram": mapping.gram.contiguous(),
        **{name: torch.tensor(value, dtype=torch.float64) for name, value in numbers.items()},
    }
    packed: bytes = save(tensors, metadata={_ENCODER: _encoders(components)})
    return packed


def unpack_statistics(data: bytes, components: DiffusionComponents, *, origin: str) -> MappingStatistics:
    """Statistics from the content of a document that nobody has looked at yet.

    Args:
        data: The content.
        components: The text encoders that the statistics are to be used with.
        origin: Whose statistics they are, for messages.

    Raises:
        ArtifactError: They are malformed, or what cannot be the statistics of any states.
        BaseModelMismatchError: They come from other text encoders.
    """
    owned, width = bytearray(data), components.text_width
    entries = parse_header(owned, origin=origin)
    _check_encoders(owned, components, origin=origin)
    shapes = {"shift": (width, width), "gram": (width, width), "energy": (), "count": ()}
    table = [TensorSpec(name=name, shape=shape, dtype="F64") for name, shape in shapes.items()]
    check_table(entries, table, origin=origin)
    held = tensors_from(owned, entries)
    check_values(held, origin=origin)
    gram = held["gram"]
    uneven = float((gram - gram.T).abs().max()) > _ROUNDING * float(gram.abs().max())
    if uneven or bool((gram.diagonal() < 0).any()) or float(held["energy"]) < 0 or float(held["count"]) < 0:
        raise ArtifactFormatError(
            f"{origin} cannot be sums over states: the Gram matrix is not symmetric, or it, the energy or "
            f"the count ({float(held['count']):g}) has negative values; expected what training wrote; train "
            f"the artifact again"
        )
    return MappingStatistics(held["shift"], gram, float(held["energy"]), float(held["count"]))


def _check_encoders(data: bytearray, components: DiffusionComponents, *, origin: str) -> None:
    """Compare the fingerprints in the header, whose form `parse_header` has checked."""
    length = int.from_bytes(data[:8], "little")
    noted = json.loads(data[8 : 8 + length]).get("__metadata__", {}).get(_ENCODER)
    found = _encoders(components)
    if noted != found:
        raise BaseModelMismatchError(
            f"{origin} come from text encoders with the fingerprint {noted}; expected those of the pipeline "
            f"at hand, {found}; give the base model that the artifact was trained on, in the same precision"
        )


def _encoders(components: DiffusionComponents) -> str:
    return " ".join(fingerprint(encoder) for _, encoder in components.text_encoders)
