"""Which weights a method trains: named groups, as ESD and AdvUnlearn named them.

UNet groups follow ESD's first code (arXiv:2303.07345), carried over from CompVis names to diffusers' names
(`time_embed` is `time_embedding`, `out` is `conv_norm_out` and `conv_out`), and its present code, which takes
linear and convolution layers only. Text encoder groups follow AdvUnlearn (arXiv:2405.15234, section 5 and
figure 8): whole layers by their number.

Names are compared part by part. AdvUnlearn's code looks for the beginning "encoder.layers.1", which also
finds layers 10 and 11; here layer 1 is layer 1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, Literal, get_args

from torch import nn
from transformers import PreTrainedModel

from diffusers_erasure.errors import ConfigError

LayerPart = Literal["all", "attn", "ffn"]
Component = Literal["unet", "text_encoder"]

_Rule = Callable[[tuple[str, ...], nn.Module], bool]
_TEXT_FULL = "text_encoder_full"
_TEXT_LAYERS = re.compile(r"text_encoder_layers?_?(\d+(?:_\d+)*)")
_LAYER_PATH = re.compile(r"(?:^|\.)encoder\.layers\.(\d+)\.(.+)$")
_PART_OF_LAYER: Mapping[LayerPart, str] = MappingProxyType({"attn": "self_attn", "ffn": "mlp"})
_OUTPUT = ("conv_norm_out", "conv_out")
_CROSS_LAYERS = (("up_blocks", "2", "attentions", "0"), ("up_blocks", "2", "attentions", "2"))
_SELF_LAYERS = (("down_blocks", "1", "attentions", "0"), ("down_blocks", "2", "attentions", "0"))


def _everything(_path: tuple[str, ...], _layer: nn.Module) -> bool:
    return True


def _cross_attention(path: tuple[str, ...], _layer: nn.Module) -> bool:
    return "attn2" in path


def _keys_and_values(path: tuple[str, ...], _layer: nn.Module) -> bool:
    return "attn2" in path and ("to_k" in path or "to_v" in path)


def _self_attention(path: tuple[str, ...], _layer: nn.Module) -> bool:
    return "attn1" in path


def _visual(path: tuple[str, ...], _layer: nn.Module) -> bool:
    return "attn1" in path or ("attn2" in path and "to_q" in path)


def _not_time(path: tuple[str, ...], _layer: nn.Module) -> bool:
    return path[0] not in ("time_embedding", *_OUTPUT)


def _not_cross_attention(path: tuple[str, ...], layer: nn.Module) -> bool:
    return "attn2" not in path and _not_time(path, layer)


def _layers(_path: tuple[str, ...], layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear | nn.Conv2d)


def _layers_but_cross_attention(path: tuple[str, ...], layer: nn.Module) -> bool:
    return _layers(path, layer) and "attn2" not in path


def _late_cross_attention(path: tuple[str, ...], _layer: nn.Module) -> bool:
    return "attn2" in path and path[:4] in _CROSS_LAYERS


def _early_self_attention(path: tuple[str, ...], _layer: nn.Module) -> bool:
    return "attn1" in path and path[:4] in _SELF_LAYERS


_UNET_GROUPS: Mapping[str, tuple[_Rule, str]] = MappingProxyType(
    {
        "esd-x": (_cross_attention, "the cross-attention; for concepts that a prompt names (xattn)"),
        "esd-u": (_not_cross_attention, "all but cross-attention, time embedding and output (noxattn)"),
        "esd-x-strict": (_keys_and_values, "keys and values of the cross-attention"),
        "esd-u-code": (_layers_but_cross_attention, "linear and convolution layers outside cross-attention"),
        "esd-all": (_layers, "every linear and convolution layer"),
        "full": (_everything, "every weight of the UNet"),
        "xattn": (_cross_attention, "the cross-attention: queries, keys, values and output"),
        "noxattn": (_not_cross_attention, "all but cross-attention, time embedding and output"),
        "selfattn": (_self_attention, "the self-attention: queries, keys, values and output"),
        "visual": (_visual, "self-attention, and the queries of cross-attention (TRCE)"),
        "notime": (_not_time, "all but time embedding and output"),
        "xlayer": (_late_cross_attention, "cross-attention of two layers on the way up"),
        "selflayer": (_early_self_attention, "self-attention of two layers on the way down"),
    }
)
_TEXT_GROUPS: Mapping[str, str] = MappingProxyType(
    {
        _TEXT_FULL: "every layer of the text encoder and its final norm; embeddings never",
        "text_encoder_layer0": "that layer of the text encoder; several: text_encoder_layer0_1_11",
    }
)


def parameter_groups(component: Component | None = None) -> dict[str, str]:
    """Every group's name with what it holds, of one component or of both."""
    unet = {name: text for name, (_, text) in _UNET_GROUPS.items()}
    if component == "unet":
        return unet
    return dict(_TEXT_GROUPS) if component == "text_encoder" else {**unet, **_TEXT_GROUPS}


def component_of(group: str) -> Component:
    """Whether a group is one of the UNet or of the text encoder.

    Raises:
        ConfigError: There is no such group.
    """
    if group in _UNET_GROUPS:
        return "unet"
    if group == _TEXT_FULL or _TEXT_LAYERS.fullmatch(group):
        return "text_encoder"
    known = parameter_groups()
    near = get_close_matches(group, known, n=1)
    advice = f"did you mean {near[0]!r}?" if near else "choose one of them"
    raise ConfigError(f"there is no parameter group {group!r}; groups are {', '.join(known)}; {advice}")


def trainable_parameters(
    module: Any, group: str, *, part: LayerPart = "all", final_norm: bool | None = None
) -> dict[str, nn.Parameter]:
    """The parameters of a group by name, in the module's order.

    Args:
        module: UNet or text encoder.
        group: One of `parameter_groups()`; text encoder layers by number, `text_encoder_layer0_1_11`.
        part: For text encoder groups: whole layers, or only their attention or feed-forward part.
        final_norm: For text encoder groups: with the final layer norm; by default only where all layers are
            taken whole.

    Raises:
        ConfigError: There is no such group, it is one of the other component, or it selects nothing here.
    """
    component = component_of(group)
    found: Component = "text_encoder" if isinstance(module, PreTrainedModel) else "unet"
    if component != found:
        raise ConfigError(
            f"the group {group!r} is one of the {component}, but it was asked of a {type(module).__name__}; "
            f"groups here are {', '.join(parameter_groups(found))}; choose one of them"
        )
    if part not in get_args(LayerPart):
        raise ConfigError(
            f"there is no layer part {part!r}; expected {', '.join(get_args(LayerPart))}; leave it out"
        )
    if component == "text_encoder":
        chosen = _text_parameters(module, group, part, final_norm)
    else:
        chosen = _unet_parameters(module, _UNET_GROUPS[group][0])
    if not chosen:
        raise ConfigError(
            f"the group {group!r} holds no weight of this {type(module).__name__}; a group must select at "
            f"least one; choose another of {', '.join(parameter_groups(found))}"
        )
    return chosen


def _unet_parameters(unet: nn.Module, rule: _Rule) -> dict[str, nn.Parameter]:
    layers = dict(unet.named_modules())
    return {
        name: parameter
        for name, parameter in unet.named_parameters()
        if rule(tuple(name.split(".")), layers[name.rpartition(".")[0]])
    }


def _text_parameters(
    encoder: nn.Module, group: str, part: LayerPart, final_norm: bool | None
) -> dict[str, nn.Parameter]:
    inside = {
        name: (int(match[1]), match[2])
        for name, _ in encoder.named_parameters()
        if (match := _LAYER_PATH.search(name))
    }
    wanted = _layer_numbers(group, 1 + max((layer for layer, _ in inside.values()), default=-1))
    norm = (group == _TEXT_FULL and part == "all") if final_norm is None else final_norm
    return {
        name: parameter
        for name, parameter in encoder.named_parameters()
        if (norm and "final_layer_norm" in name.split("."))
        or (name in inside and inside[name][0] in wanted and _in_part(inside[name][1], part))
    }


def _in_part(path: str, part: LayerPart) -> bool:
    return part == "all" or path.partition(".")[0] == _PART_OF_LAYER[part]


def _layer_numbers(group: str, layers: int) -> set[int]:
    """Numbers of the layers that a text encoder group names."""
    match = _TEXT_LAYERS.fullmatch(group)
    if match is None:
        return set(range(layers))
    parts = match[1].split("_")
    wrong = [part for part in parts if (part != "0" and part.startswith("0")) or int(part) >= layers]
    if wrong:
        raise ConfigError(
            f"the group {group!r} names the layer {wrong[0]!r}; this text encoder has layers 0 to "
            f"{layers - 1}; write numbers with underscores between them: text_encoder_layer0_1"
        )
    return {int(part) for part in parts}


def text_layers_by_prefix(group: str, encoder: Any) -> str:
    """The group that AdvUnlearn's code takes for the one named: every layer whose number begins like it.

    Args:
        group: Any group; those of the UNet and `text_encoder_full` stay as they are.
        encoder: The text encoder, which says how many layers there are.
    """
    match = _TEXT_LAYERS.fullmatch(group)
    if match is None:
        return group
    named = {int(found[1]) for name, _ in encoder.named_parameters() if (found := _LAYER_PATH.search(name))}
    asked = tuple(match[1].split("_"))
    layers = [str(layer) for layer in sorted(named) if str(layer).startswith(asked)]
    return f"text_encoder_layer{'_'.join(layers or asked)}"


@contextmanager
def only_trainable(module: Any, names: Collection[str]) -> Iterator[dict[str, nn.Parameter]]:
    """Let gradients go to these parameters of a module and to no other; flags are restored afterwards.

    Args:
        module: Any module.
        names: Names as in `named_parameters`; none freezes the module.

    Yields:
        The trainable parameters by name, in the module's order.

    Raises:
        ConfigError: The module has no such parameter.
    """
    parameters: dict[str, nn.Parameter] = dict(module.named_parameters())
    unknown = sorted(set(names) - set(parameters))
    if unknown:
        raise ConfigError(
            f"{type(module).__name__} has no parameter {unknown[0]!r} ({len(unknown)} unknown in all); names "
            f"are those of named_parameters(); take them from trainable_parameters"
        )
    before = {name: parameter.requires_grad for name, parameter in parameters.items()}
    try:
        for name, parameter in parameters.items():
            parameter.requires_grad_(name in names)
        yield {name: parameter for name, parameter in parameters.items() if name in names}
    finally:
        for name, parameter in parameters.items():
            parameter.requires_grad_(before[name])


@contextmanager
def frozen(*modules: Any) -> Iterator[None]:
    """Keep gradients off all weights of some modules, so that backward passes only reach inputs."""
    flags = [(weight, weight.requires_grad) for module in modules for weight in module.parameters()]
    try:
        for weight, _ in flags:
            weight.requires_grad_(False)
        yield
    finally:
        for weight, flag in flags:
            weight.requires_grad_(flag)
