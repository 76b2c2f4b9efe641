"""Where a UNet reads the text: the key and value projections of its cross-attention.

Found by what a module is, not by its name: diffusers marks an attention that reads another sequence, so
UNets of any depth and width work, those whose first attention also reads the text included.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from diffusers_erasure.errors import ConfigError

_PROJECTIONS = ("to_k", "to_v")


@dataclass(frozen=True)
class TextProjection:
    """One key or value projection.

    Attributes:
        key: Name of its weight in the state dict of the UNet without adapters.
        weight: The weight itself, `(out, text width)`; of the layer beneath, where a LoRA wraps it.
    """

    key: str
    weight: Tensor


def text_projections(unet: Any, *, text_width: int | None = None) -> tuple[TextProjection, ...]:
    """Every matrix of a UNet that is applied to text states, in the order of its modules.

    Args:
        unet: Any diffusers UNet with cross-attention (an `nn.Module`, which diffusers does not type as one).
        text_width: Width that every one of them must read, where given.

    Raises:
        ConfigError: There is none, attention is fused, or a projection reads another width.
    """
    found = tuple(_iterate(unet))
    if not found:
        raise ConfigError(
            f"{type(unet).__name__} has no cross-attention with to_k and to_v; a UNet that reads text states "
            f"is needed; choose a text-to-image model"
        )
    for projection in found:
        width = projection.weight.shape[1]
        if text_width is not None and width != text_width:
            raise ConfigError(
                f"{projection.key} reads states of width {width}, but the text encoder gives {text_width}; "
                f"both must agree; use the text encoder that this UNet was trained with"
            )
    return found


def _iterate(unet: nn.Module) -> Iterator[TextProjection]:
    for name, module in unet.named_modules():
        if not getattr(module, "is_cross_attention", False):
            continue
        if getattr(module, "fused_projections", False):
            raise ConfigError(
                f"the projections of {name} are fused; separate to_k and to_v are needed, since a fused "
                f"layer ignores them; call pipe.unfuse_qkv_projections() first"
            )
        for projection in _PROJECTIONS:
            layer = getattr(module, projection, None)
            if layer is not None:
                yield TextProjection(f"{name}.{projection}.weight", _weight(layer, f"{name}.{projection}"))


def _weight(layer: nn.Module, name: str) -> Tensor:
    """Weight of a linear layer, or of the one that an adapter wraps."""
    inner = getattr(layer, "base_layer", layer)
    weight = getattr(inner, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2:
        raise ConfigError(
            f"{name} is a {type(inner).__name__} without a matrix as its weight; a linear layer is needed; "
            f"load the UNet without quantisation or foreign layers"
        )
    return weight
