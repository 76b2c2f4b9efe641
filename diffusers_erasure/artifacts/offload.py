"""Taking offload hooks off a pipeline while a component is exchanged, and putting them back.

accelerate and diffusers wrap `forward` and move weights about (whole models, layers, or groups of layers). An
edit needs the weights themselves, and the new component needs hooks of its own.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

logger = logging.getLogger(__name__)

_GROUP_HOOKS = ("group_offloading", "layer_execution_tracker", "lazy_prefetch_group_offloading")


@contextmanager
def offload_suspended(pipe: Any) -> Iterator[None]:
    """Within the block the pipeline has no offload hooks; afterwards it has those it came with."""
    with ExitStack() as restore:
        again = _model_or_sequential(pipe)
        if again is not None:
            device = getattr(pipe, "_offload_device", None)
            pipe.remove_all_hooks()
            restore.callback(again, device=device)
        for name, module in _modules(pipe):
            config = _group_config(module)
            if config is not None:
                _remove_group_hooks(module)
                restore.callback(_group_again, pipe, name, config)
        yield


def _modules(pipe: Any) -> list[tuple[str, nn.Module]]:
    components = getattr(pipe, "components", {})
    return [(name, module) for name, module in components.items() if isinstance(module, nn.Module)]


def _model_or_sequential(pipe: Any) -> Callable[..., None] | None:
    """The call that puts accelerate's hooks back, if there are any."""
    hooks = [vars(module).get("_hf_hook") for _, module in _modules(pipe)]
    kinds = {type(hook).__name__ for hook in hooks if hook is not None}
    kinds |= {type(inner).__name__ for hook in hooks for inner in getattr(hook, "hooks", ())}
    if "AlignDevicesHook" in kinds:
        sequential: Callable[..., None] = pipe.enable_sequential_cpu_offload
        return sequential
    if "CpuOffload" in kinds:
        whole: Callable[..., None] = pipe.enable_model_cpu_offload
        return whole
    return None


def _group_config(module: nn.Module) -> Any:
    for layer in module.modules():
        registry = vars(layer).get("_diffusers_hook")
        hook = registry.get_hook(_GROUP_HOOKS[0]) if registry is not None else None
        if hook is not None:
            return hook.config
    return None


def _remove_group_hooks(module: nn.Module) -> None:
    from diffusers.hooks.hooks import HookRegistry

    registry = HookRegistry.check_if_exists_or_initialize(module)
    for name in _GROUP_HOOKS:
        registry.remove_hook(name, recurse=True)


def _group_again(pipe: Any, name: str, config: Any) -> None:
    from diffusers.hooks.group_offloading import apply_group_offloading

    apply_group_offloading(
        getattr(pipe, name),
        onload_device=config.onload_device,
        offload_device=config.offload_device,
        offload_type=config.offload_type,
        num_blocks_per_group=config.num_blocks_per_group,
        non_blocking=config.non_blocking,
        use_stream=config.stream is not None,
        record_stream=config.record_stream,
        low_cpu_mem_usage=config.low_cpu_mem_usage,
    )
