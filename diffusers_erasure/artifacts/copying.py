"""Copy on write: a module of its own that shares every untouched tensor with the one it was made from."""

import copy
from collections.abc import Mapping

from torch import Tensor, nn

from diffusers_erasure.errors import ConfigError, ErasureStateError

from .tensors import canonical_name, foreign_forward

RECORD_NAME = "erasure_record"


def edited_copy(module: nn.Module, replaced: Mapping[str, Tensor]) -> nn.Module:
    """A copy of a module in which some weights are others.

    Untouched parameters are new `Parameter` objects over the same storage: casting or moving the copy rebinds
    only its own, and costs no memory until then. Hooks, processors, adapters and configuration are copied as
    they are.

    Args:
        module: Text encoder or UNet; not changed.
        replaced: New weights by canonical name; each takes the dtype and device of the weight whose place it
            takes.

    Raises:
        ErasureStateError: diffusers has hooked layers of it, or someone has put another `forward` on one: a
            copy would compute with the old weights.
    """
    _check_not_hooked(module)
    _check_not_patched(module)
    memo: dict[int, object] = {}
    left = dict(replaced)
    for raw, parameter in module.named_parameters():
        tensor = left.pop(canonical_name(raw), None)
        memo[id(parameter)] = _shared(parameter) if tensor is None else _own(raw, parameter, tensor)
    for buffer in module.buffers():
        memo[id(buffer)] = buffer.detach()
    if left:
        raise ConfigError(
            f"the module has no parameters {sorted(left)[:5]}; expected the names of its weights; check the "
            "component"
        )
    record = module.__dict__.get(RECORD_NAME)
    if record is not None:
        memo[id(record)] = record
    return copy.deepcopy(module, memo)


def _check_not_hooked(module: nn.Module) -> None:
    """Refuse hooks of diffusers, whose copies go on calling the layers that they were put on."""
    for name, layer in module.named_modules():
        hooks = getattr(vars(layer).get("_diffusers_hook"), "hooks", None)
        if hooks:
            raise ErasureStateError(
                f"layer {name or 'itself'} of {type(module).__name__} is hooked by diffusers "
                f"({', '.join(hooks)}); expected none, since a copy would compute with the weights of the "
                "module that it was made from; load the pipeline anew, erase, and only then enable them"
            )


def _check_not_patched(module: nn.Module) -> None:
    """Refuse a `forward` of a layer's own that is bound elsewhere, such as `torch.compile(unet.forward)`.

    Copying a layer copies methods and partial functions with it (those that accelerate sets), but not
    functions: they go on calling the layer that they were made from.
    """
    for name, layer in module.named_modules():
        forward = foreign_forward(layer)
        if forward is None:
            continue
        raise ErasureStateError(
            f"layer {name or 'itself'} of {type(module).__name__} has a forward of its own, {forward!r:.80}; "
            "expected that of its class, since a copy would compute with the weights of the module that it "
            "was made from; take it off (`del module.forward`), erase, and only then compile or patch"
        )


def _shared(parameter: nn.Parameter) -> nn.Parameter:
    if type(parameter) is not nn.Parameter:
        return parameter
    return nn.Parameter(_normal(parameter), requires_grad=parameter.requires_grad)


def _own(raw: str, parameter: nn.Parameter, tensor: Tensor) -> nn.Parameter:
    if not parameter.is_floating_point():
        raise ConfigError(
            f"the weight {raw!r} is quantised ({parameter.dtype}); expected floating point weights; put the "
            "erasure on the unquantised model and quantise afterwards"
        )
    placed = _normal(tensor).to(parameter.device, parameter.dtype)
    return nn.Parameter(placed, requires_grad=parameter.requires_grad)


def _normal(tensor: Tensor) -> Tensor:
    """The tensor without a graph; a copy where it was made under `torch.inference_mode()`."""
    detached = tensor.detach()
    return detached.clone() if detached.is_inference() else detached
