"""Whether an edit fits a component: names, widths, and the settings that change what the weights compute."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from diffusers_erasure.errors import BaseModelMismatchError

from .edits import Edit, RightFactorEdit
from .tensors import TOKEN_TABLE, fused_projections

# Fields of a configuration that change what a network computes, beside its weights: those that are compared
# whatever they are.
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


# Fields of a UNet's configuration that change nothing of what it computes from given inputs.
NEUTRAL = ("sample_size",)
ADAPTED = ("encoder_hid_dim_type", "ip_image_proj")
"""What an IP-Adapter writes into the configuration of the UNet that it is put on."""
AT_DEFAULT = "the default"


def behaviour(module: nn.Module) -> dict[str, Any]:
    """The fields of a module's configuration that decide what its weights compute, as JSON values.

    Those of `BEHAVIOUR` always; of a model of diffusers also each further one that is not as its class has
    it by default, so that fields which another version adds, at their defaults, make no difference.
    """
    config: Any = getattr(module, "config", None)
    if hasattr(config, "to_dict"):
        known, further = config.to_dict(), dict[str, Any]()
    else:
        known, further = dict(config or {}), _changed_fields(module, dict(config or {}))
    return {field: _plain(known[field]) for field in dict.fromkeys(BEHAVIOUR) if field in known} | further


def check_behaviour(component: str, module: nn.Module, stated: Mapping[str, Any], *, origin: str) -> None:
    """Refuse an exact base whose configuration makes it compute something else.

    The size of the vocabulary may differ: textual inversion adds to it. Another field of `BEHAVIOUR` that one
    side lacks is one that its version of the library does not know.
    """
    found = behaviour(module)
    for field in dict.fromkeys((*stated, *found)):
        if field == "vocab_size" or (field in BEHAVIOUR and not (field in stated and field in found)):
            continue
        ours, expected = (_plain(side.get(field, AT_DEFAULT)) for side in (found, stated))
        if ours != expected:
            raise BaseModelMismatchError(
                f"the pipeline's {component} has {field} = {ours!r} in its config, but {origin} was made on "
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
            f"{origin} edits, the first: {', '.join(sorted(missing)[:5])}; expected a base model of the same "
            "architecture; load it into the base that the artifact names"
        )
    for name in edit.targets:
        _check_shape(component, name, edit, tensors[name], origin)


def check_not_fused(component: str, module: nn.Module) -> None:
    """Refuse fused projections, which would run on and ignore edits of `to_k` and `to_v`."""
    fused = fused_projections(module)
    if fused:
        raise BaseModelMismatchError(
            f"{len(fused)} attention layers of the pipeline's {component} have fused projections (first: "
            f"{fused[0]}); expected separate to_q, to_k, to_v, since edits of those have no effect while "
            "fused; call pipe.unfuse_qkv_projections(), load the erasure, then fuse again"
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


def _changed_fields(module: nn.Module, config: Mapping[str, Any]) -> dict[str, Any]:
    """Fields beyond `BEHAVIOUR` that the module's class knows and that are not at its defaults."""
    defaults = inspect.signature(type(module).__init__).parameters
    return {
        field: _plain(value)
        for field, value in sorted(config.items())
        if field in defaults
        and field not in (*BEHAVIOUR, *NEUTRAL)
        and (field, value) != ADAPTED
        and _plain(value) != _plain(defaults[field].default)
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value
