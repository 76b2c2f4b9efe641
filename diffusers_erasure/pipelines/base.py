"""Loading a base pipeline: stock and un-erased, with errors that say what to do.

Stable Diffusion 1.x and 2.x and SDXL; the folder's index says which.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline

from diffusers_erasure.artifacts.hub import TRANSPORT_ERROR, is_repo_id
from diffusers_erasure.artifacts.manifest import MANIFEST_NAME
from diffusers_erasure.embedded import EMBEDDED_MODEL_ID, resolve_model
from diffusers_erasure.encoders.source import EncoderSource
from diffusers_erasure.errors import ArtifactFormatError, ArtifactNotFoundError, ConfigError, ErasureError

from .baked import read_baked
from .index import INDEX_FILE, PipelineIndex, erased_class_name, hub_options, read_index, stock_class
from .pulling import pull, without_index

FILTER_OPTIONS = ("safety_checker", "requires_safety_checker")
"""Arguments about a filter that SDXL does not have: of no meaning there, and not worth a warning."""


def load_base_pipeline(
    name_or_path: str | Path = EMBEDDED_MODEL_ID,
    *,
    revision: str | None = None,
    dtype: torch.dtype | Mapping[str, torch.dtype] = torch.float32,
    allow_erased: bool = False,
    **options: Any,
) -> StableDiffusionPipeline | StableDiffusionXLPipeline:
    """The pipeline that a method erases from and that an erased one is compared with.

    Args:
        name_or_path: Folder, Hub id, or "embedded" for the pipeline that comes with this package.
        revision: Branch, tag or commit on the Hub.
        dtype: Floating dtype of all components; or of each by name, "default" of those that are not named.
        allow_erased: Take a pipeline that was saved erased; nothing compares it with what was saved.
        options: Further arguments of the stock `from_pretrained` (`token`, `cache_dir`, `local_files_only`,
            `variant`, ...); those about a safety checker are left out where the pipeline has none.

    Raises:
        ArtifactNotFoundError: There is no such pipeline, or it is not complete.
        ArtifactFormatError: What is there is not a base pipeline.
    """
    place = resolve_base(name_or_path)
    files = EncoderSource.find(place, "", revision, **hub_options(options))
    index = read_index(files)
    if index is None:
        raise files.unknown(INDEX_FILE) or without_index(place)
    if not allow_erased:
        _refuse_erased(index)
    stock = stock_class(index.class_name)
    taken = inspect.signature(stock).parameters
    options = {name: value for name, value in options.items() if name in taken or name not in FILTER_OPTIONS}
    wanted = dict(dtype) if isinstance(dtype, Mapping) else dtype
    with loading(name_or_path):
        folder, told = pull(place, index.revision or revision, options, pickles=True)
        pipe = stock.from_pretrained(str(folder), dtype=wanted, **told)
        pipe.register_to_config(_name_or_path=place)
    if not isinstance(pipe, stock):
        raise ArtifactFormatError(
            f"{name_or_path} is a {type(pipe).__name__}; expected a Stable Diffusion text-to-image pipeline; "
            "give another base model"
        )
    return pipe


def _refuse_erased(index: PipelineIndex) -> None:
    baked = read_baked(index.content, where=index.where)
    if baked is not None:
        names = ", ".join(dict.fromkeys(erasure.name for erasure in baked.erasures))
        raise ArtifactFormatError(
            f"{index.where} says that this pipeline was saved erased of {names}; expected a base model that "
            "is not erased; give that, open this one with "
            f"{erased_class_name(index.class_name)}.from_pretrained, or, in Python, pass "
            "allow_erased=True to build on it"
        )


def on_components(cls: type[DiffusionPipeline], pipe: DiffusionPipeline, **changes: Any) -> Any:
    """A pipeline of a class on the components, and with the configuration, of another of its family.

    Unlike the stock `from_pipe` it casts nothing, so components of mixed dtypes stay as they are.

    Args:
        cls: Class of the new pipeline.
        pipe: The other pipeline.
        changes: Components and settings of the new one that are others.

    Raises:
        ConfigError: The class knows no such argument, or needs a component that is not there.
    """
    taken = inspect.signature(cls).parameters
    known = {**pipe.config, **pipe.components, **changes}
    told = {name: value for name, value in known.items() if name in taken}
    needed = {name for name, parameter in taken.items() if parameter.default is parameter.empty}
    for name in sorted(set(changes) - set(taken) | needed - set(told)):
        fault = f"takes no {name}" if name in changes else f"needs a {name}, and the given pipeline has none"
        raise ConfigError(
            f"{cls.__name__} {fault}; expected components and settings of {', '.join(taken)}; correct that"
        )
    return cls(**told)


def resolve_base(name_or_path: str | Path) -> str:
    """Folder or Hub id of a base pipeline; what can be neither is refused before anything is loaded."""
    place = resolve_model(str(name_or_path))
    folder = Path(place).expanduser()
    if folder.is_dir():
        if (folder / INDEX_FILE).is_file():
            return str(folder)
        if (folder / MANIFEST_NAME).is_file():
            raise ArtifactFormatError(
                f"{folder} is an erasure artifact, not a base pipeline; expected a folder with {INDEX_FILE}; "
                "load it with ErasedStableDiffusionPipeline.from_pretrained, or give the base model"
            )
        raise without_index(str(folder))
    if not is_repo_id(place):
        raise ArtifactNotFoundError(
            f"{str(name_or_path)!r} is neither a folder nor a Hub id; expected a pipeline's folder, an id "
            f"such as org/name, or {EMBEDDED_MODEL_ID!r}; check the spelling and the working directory"
        )
    return place


@contextmanager
def loading(name_or_path: str | Path) -> Iterator[None]:
    """Turn what diffusers, transformers and the Hub's client raise while a pipeline loads into our errors."""
    try:
        yield
    except ErasureError:
        raise
    except (OSError, ValueError, ImportError, TRANSPORT_ERROR) as error:
        raise unreadable_base(name_or_path, error) from error


def unreadable_base(name_or_path: str | Path, error: Exception) -> ArtifactNotFoundError:
    """The error for a base pipeline that diffusers could not load."""
    return ArtifactNotFoundError(
        f"the base model {str(name_or_path)!r} could not be loaded ({type(error).__name__}: "
        f"{str(error)[:300]}); expected a complete Stable Diffusion pipeline; check the id and the "
        "connection, or download it again"
    )


@cache
def stock_signature(pipeline_class: Any) -> inspect.Signature:
    """Signature of the stock `__call__` that the mixin stands in front of."""
    return inspect.signature(stock_parent(pipeline_class).__call__)


def stock_parent(pipeline_class: type) -> Any:
    """The stock pipeline class that the mixin stands in front of."""
    for parent in pipeline_class.__mro__:
        if parent.__module__.startswith("diffusers.") and "__call__" in vars(parent):
            return parent
    raise ConfigError(
        f"{pipeline_class.__name__} has no stock pipeline among its parents; derive it from one"
    )
