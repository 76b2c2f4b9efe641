"""The tensors of a component under names that do not depend on who wraps it.

A weight is called `text_model.encoder...` by one version of transformers and `encoder...` by the next,
`to_k.base_layer.weight` once a LoRA is loaded, and nothing at all on a module that is offloaded piece by
piece. Artifacts use one name per weight: no `text_model.` in front, no `base_layer`. Weights that others add
beside the model's own (LoRA, IP-Adapter, fused projections) are not part of it.
"""

import re
from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

_ADDED = re.compile(r"(^|\.)(lora_\w+|processor|to_qkv|to_kv|to_added_qkv|parametrizations)\.")
TOKEN_TABLE = "embeddings.token_embedding.weight"
SAFETENSORS_TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
}
TORCH_TYPES = {name: dtype for dtype, name in SAFETENSORS_TYPES.items()}


def canonical_name(raw: str) -> str:
    """The artifact's name of a weight that a module calls `raw`."""
    return raw.removeprefix("text_model.").replace(".base_layer.", ".")


def unwrapped(module: nn.Module) -> nn.Module:
    """The module inside of `torch.compile`'s wrapper, or the module itself."""
    inner = getattr(module, "_orig_mod", module)
    return inner if isinstance(inner, nn.Module) else module


def component_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Canonical name -> tensor (not copied), sorted by name.

    Weights that an accelerate hook keeps elsewhere while they are not in use are read from there.
    """
    state = module.state_dict(keep_vars=True)
    own = {
        canonical_name(raw): _materialised(module, raw, state[raw]) for raw in state if _is_own(module, raw)
    }
    return dict(sorted(own.items()))


def added_names(module: nn.Module) -> list[str]:
    """The module's names of weights that were added beside the model's own."""
    return [raw for raw in module.state_dict(keep_vars=True) if not _is_own(module, raw)]


def fused_projections(module: nn.Module) -> list[str]:
    """Names of attention layers whose projections are fused, so that edits of `to_k` would have no effect."""
    return [
        name
        for name, layer in module.named_modules()
        if getattr(layer, "fused_projections", False) is True and _draws_fused(layer)
    ]


def foreign_forward(layer: nn.Module) -> object | None:
    """A layer's `forward` if somebody put on it one that is bound elsewhere (`torch.compile(unet.forward)`).

    Those that accelerate sets and takes off at every call are bound to the layer itself, as is its own.
    """
    for name in ("forward", "_old_forward"):
        found = vars(layer).get(name)
        if found is None or getattr(found, "__self__", None) is layer:
            continue
        if isinstance(found, partial) and any(given is layer for given in found.args):
            continue
        return cast(object, found)
    return None


def _draws_fused(layer: Any) -> bool:
    """Whether its processor reads the fused weights; unfusing puts the old one back and leaves the mark."""
    return type(getattr(layer, "processor", None)).__name__.startswith("Fused")


def active_adapters(module: nn.Module) -> list[str]:
    """Names of LoRA layers that add to the weights at the moment, without being merged."""
    return [
        name
        for name, layer in module.named_modules()
        if hasattr(layer, "base_layer")
        and getattr(layer, "active_adapters", None)
        and not _is_switched_off(layer)
    ]


def without_added_tokens(tensors: Mapping[str, Tensor], rows: int | None) -> dict[str, Tensor]:
    """The tensors with the embedding table cut to the base's vocabulary (textual inversion appends rows)."""
    cut = dict(tensors)
    if rows is not None and TOKEN_TABLE in cut and cut[TOKEN_TABLE].shape[0] > rows:
        cut[TOKEN_TABLE] = cut[TOKEN_TABLE][:rows]
    return cut


def _is_switched_off(layer: Any) -> bool:
    return bool(getattr(layer, "disable_adapters", False) or getattr(layer, "merged", False))


def _is_own(module: nn.Module, raw: str) -> bool:
    if raw.startswith("encoder_hid_proj."):
        return getattr(getattr(module, "config", None), "encoder_hid_dim_type", None) != "ip_image_proj"
    return _ADDED.search(raw) is None


def _materialised(module: nn.Module, raw: str, tensor: Tensor) -> Tensor:
    if not tensor.is_meta:
        return tensor
    prefix, _, leaf = raw.rpartition(".")
    hook: Any = getattr(module.get_submodule(prefix), "_hf_hook", None)
    for candidate in (hook, *getattr(hook, "hooks", ())):
        kept = getattr(candidate, "weights_map", None)
        if kept is not None:
            found: Tensor = kept[leaf]
            return found
    return tensor
