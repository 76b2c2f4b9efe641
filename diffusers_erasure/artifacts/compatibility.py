"""Whether an edit fits a component: names, widths, and the settings that change what the weights compute."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from diffusers_erasure.errors import BaseModelMismatchError

from .edits import Edit, RightFactorEdit
from .tensors import TOKEN_TABLE, fused_projections

# Fields of a configuration that change what a network computes, beside its weights.
BEHAVIOUR = (
    "hidden_act",
    "layer_norm_eps",
    "num_attention_heads",
    "num_hidden_layers",
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "projection_dim",
    "eos_token_id",
    "vocab_size",
    "act_fn",
    "attention_head_dim",
    "block_out_channels",
    "layers_per_block",
    "down_block_types",
    "mid_block_type",
    "up_block_types",
    "cross_attention_dim",
    "transformer_layers_per_block",
    "downsample_padding",
    "mid_block_scale_factor",
    "norm_num_groups",
    "norm_eps",
    "in_channels",
    "out_channels",
    "center_input_sample",
    "flip_sin_to_cos",
    "freq_shift",
    "use_linear_projection",
    "upcast_attention",
    "resnet_time_scale_shift",
    "addition_embed_type",
)


def behaviour(module: nn.Module) -> dict[str, Any]:
    """The fields of `BEHAVIOUR` that a module's configuration has, as JSON values."""
    config: Any = getattr(module, "config", None)
    known = config.to_dict() if hasattr(config, "to_dict") else dict(config or {})
    return {field: _plain(known[field]) for field in dict.fromkeys(BEHAVIOUR) if field in known}


def check_behaviour(component: str, module: nn.Module, stated: Mapping[str, Any], *, origin: str) -> None:
    """Refuse an exact base whose configuration makes it compute something else.

    The size of the vocabulary may differ: textual inversion adds to it.
    """
    found = behaviour(module)
    for field, expected in stated.items():
        if field in found and field != "vocab_size" and found[field] != _plain(expected):
            raise BaseModelMismatchError(
                f"the pipeline's {component} has {field} = {found[field]!r} in its config, but {origin} was "
                "made on "
                f"{field} = {expected!r} and the same weights; its config.json was changed; download the "
                "base again"
            )


def check_fits(component: str, edit: Edit, tensors: Mapping[str, Tensor], *, origin: str) -> None:
    """Refuse an edit whose targets the component does not have, or has in other shapes.

    Args:
        component: Name of the component, for messages.
        edit: What shall be applied.
        tensors: The component's weights by canonical name.
        origin: Artifact or method the edit comes from, for messages.
    """
    missing = [name for name in edit.targets if name not in tensors]
    if missing:
        raise BaseModelMismatchError(
            f"the pipeline's {component} has none of {len(missing)} of {len(edit.targets)} weights that "
            f"{origin} edits, "
            f"the first: {', '.join(sorted(missing)[:5])}; expected a base model of the same architecture; "
            "load it into "
            "the base that the artifact names"
        )
    for name in edit.targets:
        _check_shape(component, name, edit, tensors[name], origin)


def check_not_fused(component: str, module: nn.Module) -> None:
    """Refuse fused projections, which would run on and ignore edits of `to_k` and `to_v`."""
    fused = fused_projections(module)
    if fused:
        raise BaseModelMismatchError(
            f"{len(fused)} attention layers of the pipeline's {component} have fused projections (first: "
            f"{fused[0]}); "
            "expected separate to_q, to_k, to_v, since edits of those have no effect while fused; call "
            "pipe.unfuse_qkv_projections(), load the erasure, then fuse again"
        )


def _check_shape(component: str, name: str, edit: Edit, weight: Tensor, origin: str) -> None:
    shape = tuple(weight.shape)
    if isinstance(edit, RightFactorEdit):
        fits, wanted = len(shape) == 2 and shape[1] == edit.width, f"(…, {edit.width})"
    else:
        stored = tuple(edit.tensors[name].shape)
        grown = name == TOKEN_TABLE and len(shape) == 2 and shape[1:] == stored[1:] and shape[0] >= stored[0]
        fits, wanted = shape == stored or grown, str(stored)
    if not fits:
        raise BaseModelMismatchError(
            f"the weight {name} of the pipeline's {component} has shape {shape}, but {origin} edits weights "
            "of shape "
            f"{wanted}; the base has another width; load the artifact into the base model that it names"
        )


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value
