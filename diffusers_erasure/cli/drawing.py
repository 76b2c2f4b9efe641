"""What the drawing commands share: a progress display, and a pipeline beside its erased twin."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from .console import err, note
from .progress_lines import ProgressLines

if TYPE_CHECKING:
    from diffusers_erasure.evaluation.generate import Sampling

Report = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""


@contextmanager
def progress_display() -> Iterator[Report]:
    """Show one bar per job, and none of the libraries' own; yields the function that moves them.

    Where stderr is no terminal, a line every half minute takes their place.
    """
    if not err().is_terminal:
        with _quiet_libraries():
            yield ProgressLines(note).report
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(compact=True),
    )
    with _quiet_libraries(), Progress(*columns, console=err()) as display:
        jobs: dict[str, Any] = {}

        def report(name: str, done: int, total: int) -> None:
            if name not in jobs:
                jobs[name] = display.add_task(name, total=total)
            display.update(jobs[name], completed=done, total=total)

        yield report


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Leave out the bars that diffusers and transformers show while they load."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    shown = [
        module for module in (diffusers_logging, transformers_logging) if module.is_progress_bar_enabled()
    ]
    for module in shown:
        module.disable_progress_bar()
    try:
        yield
    finally:
        for module in shown:
            module.enable_progress_bar()


def erased_twin(base: Any, erasures: tuple[str, ...]) -> Any:
    """An erased pipeline on the components of `base`, which stays as it was."""
    from diffusers_erasure.pipelines.base import on_components

    erased = on_components(erased_class(type(base).__name__), base)
    for source in erasures:
        erased.load_erasure(source)
    return erased


def open_model(name: str) -> Any:
    """A base model, or a pipeline that was saved erased, whose weights are compared with their seals."""
    from diffusers_erasure.pipelines.base import load_base_pipeline
    from diffusers_erasure.pipelines.opening import open_source

    opened = open_source(name, revision=None, subfolder=None, hub_options={})
    if opened.kind == "baked":
        return erased_class(opened.class_name).from_pretrained(name)
    return load_base_pipeline(name)


def erased_class(class_name: str) -> Any:
    """Our pipeline class for what is, or was saved from, a pipeline of that class."""
    from diffusers_erasure import pipelines
    from diffusers_erasure.pipelines.index import erased_class_name

    return getattr(pipelines, erased_class_name(class_name))


def choose_sampling(model: str, steps: int | None, guidance_scale: float | None) -> Sampling:
    """Steps and guidance scale as given, and what suits the base model for those that are not."""
    from diffusers_erasure.evaluation.generate import Sampling, sampling_defaults

    default = sampling_defaults(model)
    return Sampling(
        steps=default.steps if steps is None else steps,
        guidance_scale=default.guidance_scale if guidance_scale is None else guidance_scale,
    )
