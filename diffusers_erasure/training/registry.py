"""Which erasure methods there are: those of this folder, and those of other packages.

    @erasure_method(name="uce", config=UCEConfig)
    def train_uce(pipe, config, *, base, progress=silent) -> Artifact: ...

One file is all that a method needs: it is found by being here, or by an entry point of the group
`diffusers_erasure.methods` that names its module. Command line, tables and contract tests read `methods()`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

from diffusers import DiffusionPipeline

from diffusers_erasure.artifacts.artifact import Artifact
from diffusers_erasure.artifacts.manifest import BaseModelRef
from diffusers_erasure.discovery import discover, foreign_settings, home_of, name_taken, no_such, summary_of
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
        version: Raised when its results change; every artifact says of which it is.
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
        known, home = _registered.get(name), home_of(train)
        if known is not None and known.module != home:
            raise ConfigError(name_taken("erasure method", "erasure methods", name, known.module, home))
        if not issubclass(config, TrainingConfig):
            raise ConfigError(foreign_settings("erasure method", name, config, TrainingConfig))
        _registered[name] = MethodSpec(name, config, train, version, summary_of(train), home)
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
