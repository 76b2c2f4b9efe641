"""Which erasure methods there are: those of this folder, and those of other packages.

    @erasure_method(name="uce", config=UCEConfig)
    def train_uce(pipe, config, *, base, progress=silent) -> Artifact: ...

One file is all that a method needs: it is found by being here, or by an entry point of the group
`diffusers_erasure.methods` that names its module. Command line, tables and contract tests read `methods()`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

from diffusers import DiffusionPipeline

from diffusers_erasure.artifacts.artifact import Artifact
from diffusers_erasure.artifacts.manifest import BaseModelRef
from diffusers_erasure.discovery import discover, no_such
from diffusers_erasure.errors import ConfigError

from .config import ProgressCallback, TrainingConfig

ENTRY_POINT_GROUP = "diffusers_erasure.methods"
_registered: dict[str, MethodSpec] = {}


class TrainFunction(Protocol):
    """From a pipeline and settings to an artifact; the pipeline stays as it was."""

    def __call__(
        self, pipe: DiffusionPipeline, config: Any, *, base: BaseModelRef, progress: ProgressCallback = ...
    ) -> Artifact:
        """Train.

        Args:
            pipe: The base pipeline.
            config: Settings, of the class that the method registered.
            base: How the artifact names the base model.
            progress: Called as the run goes on.
        """


@dataclass(frozen=True)
class MethodSpec:
    """One registered method.

    Attributes:
        name: What the user types.
        config: Its settings class.
        train: The method itself.
        version: Raised when its results change.
        summary: One line for tables.
        module: Where it comes from.
    """

    name: str
    config: type[TrainingConfig]
    train: TrainFunction
    version: str
    summary: str
    module: str


Function = TypeVar("Function", bound=Callable[..., Artifact])


def erasure_method(
    *, name: str, config: type[TrainingConfig], version: str = "1"
) -> Callable[[Function], Function]:
    """Register a training function under a name; its docstring's first line is the summary.

    Raises:
        ConfigError: Another function has that name, or the settings class is not one of ours.
    """

    def register(train: Function) -> Function:
        home = getattr(train, "__module__", "?")
        known = _registered.get(name)
        if known is not None and known.module != home:
            raise ConfigError(
                f"two erasure methods are named {name!r}, in {known.module} and in {home}; a name belongs to "
                f"one method; rename or uninstall one of them"
            )
        if not issubclass(config, TrainingConfig):
            raise ConfigError(
                f"the settings of method {name!r} are a {config.__name__}; a subclass of TrainingConfig is "
                f"needed; derive it from diffusers_erasure.training.config.TrainingConfig"
            )
        summary = (inspect.getdoc(train) or "").partition("\n")[0].rstrip(".")
        _registered[name] = MethodSpec(name, config, train, version, summary, home)
        return train

    return register


def methods() -> Mapping[str, MethodSpec]:
    """Every method by name, in alphabetical order."""
    _discover()
    return MappingProxyType(dict(sorted(_registered.items())))


def method(name: str) -> MethodSpec:
    """The method of that name.

    Raises:
        ConfigError: There is none.
    """
    known = methods()
    if name not in known:
        raise ConfigError(no_such("erasure method", "methods", name, known))
    return known[name]


@lru_cache(maxsize=1)
def _discover() -> None:
    discover(__package__, group=ENTRY_POINT_GROUP, what="erasure method")
