"""Taking offload hooks off a pipeline while a component is exchanged, and putting them back.

accelerate and diffusers wrap `forward` and move weights about (whole models, layers, or groups of layers). An
edit needs the weights themselves, and the new component needs hooks of its own.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from diffusers_erasure.errors import ErasureNotActiveError, ErasureStateError

logger = logging.getLogger(__name__)

_ACCELERATE_HOOKS = {"AlignDevicesHook", "CpuOffload"}
_GROUP_HOOKS = ("group_offloading", "layer_execution_tracker", "lazy_prefetch_group_offloading")


@contextmanager
def offload_suspended(pipe: Any, parts: Iterable[str]) -> Iterator[None]:
    """Within the block the pipeline has no offload hooks; afterwards it has those it came with.

    Nothing is half done: where the hooks cannot be put back, the pipeline gets the components that it had.

    Args:
        pipe: Any pipeline.
        parts: Names of the components that are exchanged; groups of layers of others stay hooked.

    Raises:
        ErasureStateError: Weights lie where they cannot be taken from, or hooks could not be put back.
    """
    hooked = {name: module for name, module in _modules(pipe) if name in set(parts)}
    for name, module in hooked.items():
        refuse_on_disk(module, name)
    again = _model_or_sequential(pipe)
    before = dict(_modules(pipe))
    with ExitStack() as restore:
        restore.push(lambda _kind, error, _trace: _take_back(pipe, before, error))
        if again is not None:
            device = getattr(pipe, "_offload_device", None)
            pipe.remove_all_hooks()
            restore.callback(again, device=device)
        for name, module in hooked.items():
            config = next(_group_configs(module), None)
            if config is not None:
                _remove_group_hooks(module)
                restore.callback(_group_again, pipe, name, config)
        yield


def _take_back(pipe: Any, before: dict[str, nn.Module], error: BaseException | None) -> None:
    """If the hooks could not be put on the new components, the old ones come back, without hooks."""
    exchanged = [name for name, module in before.items() if getattr(pipe, name) is not module]
    if error is None or not exchanged:
        return
    for name in exchanged:
        setattr(pipe, name, before[name])
    if _kinds_of_hooks(pipe) & _ACCELERATE_HOOKS:
        pipe.remove_all_hooks()
    if isinstance(error, Exception):
        raise ErasureStateError(
            f"the pipeline's offloading could not be put back onto the new {', '.join(exchanged)} ({error}); "
            "expected that it can be enabled again; the pipeline has the components from before, without "
            "offloading: change the erasure now, and enable offloading afterwards"
        ) from error


def _modules(pipe: Any) -> list[tuple[str, nn.Module]]:
    components = getattr(pipe, "components", {})
    return [(name, module) for name, module in components.items() if isinstance(module, nn.Module)]


def _model_or_sequential(pipe: Any) -> Callable[..., None] | None:
    """The call that puts accelerate's hooks back, if there are any."""
    kinds = _kinds_of_hooks(pipe) & _ACCELERATE_HOOKS
    if "AlignDevicesHook" in kinds:
        _refuse_device_map(pipe)
        sequential: Callable[..., None] = pipe.enable_sequential_cpu_offload
        return sequential
    if kinds:
        whole: Callable[..., None] = pipe.enable_model_cpu_offload
        return whole
    return None


def _kinds_of_hooks(pipe: Any) -> set[str]:
    hooks = [vars(module).get("_hf_hook") for _, module in _modules(pipe)]
    kinds = {type(hook).__name__ for hook in hooks if hook is not None}
    return kinds | {type(inner).__name__ for hook in hooks for inner in getattr(hook, "hooks", ())}


def _refuse_device_map(pipe: Any) -> None:
    """Refuse hooks that a device map put there: they look like those of sequential offloading."""
    of_pipe = getattr(pipe, "hf_device_map", None)
    dispatched = [
        name
        for name, module in _modules(pipe)
        if "_hf_hook" in vars(module) and hasattr(module, "hf_device_map")
    ]
    if isinstance(of_pipe, dict):
        what, repair = f"the pipeline has the device map {of_pipe}", "pipe.reset_device_map()"
    elif dispatched and getattr(pipe, "_offload_device", None) is None:
        what, repair = f"{', '.join(dispatched)} came with a device map", "pipe.remove_all_hooks()"
    else:
        return
    raise ErasureStateError(
        f"{what}, which cannot be put onto other components; expected a pipeline on one device, or with "
        f"offloading; call {repair}, or load it without device_map, and change the erasure; then move it "
        "(pipe.to(...)) or enable offloading"
    )


def refuse_on_disk(module: nn.Module, name: str) -> None:
    """Refuse to read weights that group offloading keeps on disk: between calls the module's have no values.

    Args:
        module: Any component.
        name: What to call it.

    Raises:
        ErasureNotActiveError: Some of its layers are offloaded to disk.
    """
    for config in _group_configs(module):
        if config.offload_to_disk_path is not None:
            raise ErasureNotActiveError(
                f"the weights of {name} are offloaded to disk ({config.offload_to_disk_path}), so that they "
                "can be neither edited nor compared; expected them in memory; load the pipeline again, and "
                "call enable_group_offload without offload_to_disk_path"
            )


def _group_configs(module: nn.Module) -> Iterator[Any]:
    for layer in module.modules():
        registry = vars(layer).get("_diffusers_hook")
        hook = registry.get_hook(_GROUP_HOOKS[0]) if registry is not None else None
        if hook is not None:
            yield hook.config


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
        block_modules=config.block_modules,
        exclude_kwargs=config.exclude_kwargs,
    )
