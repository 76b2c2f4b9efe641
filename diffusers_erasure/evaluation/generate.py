"""Draw pictures for a measurement: seeded one by one, in batches, kept on disk so that a run can resume.

Each picture has its own generator on the CPU, so its noise depends on its seed alone: not on the batch size,
its place in the batch, or the device. (Sums inside a batched matrix product may still be ordered otherwise:
up to one grey level of 255 in a few pixels.) Pictures are rounded to 8 bit before anything looks at them, so
one that comes back from disk is judged exactly like a fresh one.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusers_erasure.artifacts.fingerprint import fingerprint
from diffusers_erasure.diffusion.identity import facts_beside_weights
from diffusers_erasure.embedded import (
    EMBEDDED_GUIDANCE_SCALE,
    EMBEDDED_MODEL_ID,
    EMBEDDED_STEPS,
    embedded_folder,
)
from diffusers_erasure.errors import ConfigError, EvaluationError

from .picture_cache import PictureCache

logger = logging.getLogger(__name__)

NOT_FINITE = "not finite"
DEFAULT_BATCH_SIZE = 10


Progress = Callable[[int, int], None]
"""Called after every batch with the pictures that are there and all that are needed."""


TIMESTEPS = 1000
"""Of Stable Diffusion's noise schedule."""


@dataclass(frozen=True)
class Sampling:
    """How a picture is sampled.

    Raises:
        ConfigError: There is no step, or more than there are timesteps, or the guidance scale is no number.
    """

    steps: int
    guidance_scale: float

    def __post_init__(self) -> None:
        """Refuse what no picture can be drawn with."""
        if not 1 <= self.steps <= TIMESTEPS or not math.isfinite(self.guidance_scale):
            raise ConfigError(
                f"{self.steps} sampling steps at guidance scale {self.guidance_scale} draw nothing; expected "
                f"1 to {TIMESTEPS} steps, since these models know no more, and a finite scale; change "
                "num_inference_steps or guidance_scale"
            )


@dataclass(frozen=True)
class Drawings:
    """Pictures in the order of their prompts.

    Attributes:
        images: `(pictures, 3, height, width)`, uint8; a failed picture is black.
        faults: What went wrong with each picture while it was drawn; "" for nothing.
    """

    images: Tensor
    faults: tuple[str, ...]

    def sized_like(self, other: Drawings) -> Drawings:
        """The same; where all of them failed, and so have no size, with stand-ins of the other's.

        Args:
            other: Pictures of the same prompts by another pipeline.
        """
        return replace(self, images=torch.zeros_like(other.images)) if all(self.faults) else self

    def whole(self) -> Tensor:
        """The pictures, if none failed."""
        failed = [fault for fault in self.faults if fault]
        if failed:
            raise EvaluationError(
                f"{len(failed)} of {len(self.faults)} pictures could not be drawn ({failed[0]}); expected "
                "whole pictures; check the pipeline's weights and settings, or draw fewer at once"
            )
        return self.images


def is_embedded(model: str) -> bool:
    """Whether a base model is the embedded pipeline, by its id or its folder."""
    return model == EMBEDDED_MODEL_ID or Path(model).expanduser().resolve() == embedded_folder().resolve()


def sampling_defaults(model: str) -> Sampling:
    """Steps and guidance scale that suit a base model: the embedded pipeline's, or diffusers' own."""
    if is_embedded(model):
        return Sampling(EMBEDDED_STEPS, EMBEDDED_GUIDANCE_SCALE)
    return Sampling(steps=50, guidance_scale=7.5)


def pipeline_identity(pipe: Any, sampling: Sampling) -> dict[str, object]:
    """Everything but prompt and seed that a picture depends on, as JSON values; hashes all weights."""
    modules = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    modules.pop("safety_checker", None)
    return {
        "weights": {name: fingerprint(module) for name, module in sorted(modules.items())},
        **facts_beside_weights(pipe.scheduler, pipe.tokenizer),
        "dtype": str(pipe.unet.dtype),
        "steps": sampling.steps,
        "guidance_scale": sampling.guidance_scale,
        "versions": {name: version(name) for name in ("torch", "diffusers", "transformers")},
    }


def draw(
    pipe: Any,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    sampling: Sampling,
    batch_size: int = DEFAULT_BATCH_SIZE,
    cache: PictureCache | None = None,
    progress: Progress | None = None,
) -> Drawings:
    """Draw one picture per prompt and seed.

    The caller's pipeline is left as it was. A picture that is not finite, or whose batch cannot be computed,
    is reported as failed and never kept; errors of this package (an erasure that is not active) stop the run.

    Args:
        pipe: Any Stable Diffusion text-to-image pipeline.
        prompts: One per picture.
        seeds: One per picture.
        sampling: Steps and guidance scale.
        batch_size: Pictures that are drawn together; changes speed, not pictures.
        cache: Where finished pictures are kept; without it nothing is written.
        progress: Called with the number of pictures that are there, after every batch.
    """
    if len(prompts) != len(seeds) or batch_size < 1:
        raise EvaluationError(
            f"{len(prompts)} prompts, {len(seeds)} seeds and batch size {batch_size} do not fit; expected "
            "one seed per prompt and a batch of at least 1; repeat prompts to draw them with several seeds"
        )
    kept = [cache.read(*key) if cache else None for key in zip(prompts, seeds, strict=True)]
    images: dict[int, Tensor] = {index: image for index, image in enumerate(kept) if image is not None}
    missing = [index for index in range(len(prompts)) if index not in images]
    faults: dict[int, str] = {}
    if progress:
        progress(len(images), len(prompts))
    with _measuring(pipe):
        for chunk in (missing[at : at + batch_size] for at in range(0, len(missing), batch_size)):
            drawn = _draw_batch(pipe, [prompts[i] for i in chunk], [seeds[i] for i in chunk], sampling)
            for index, image, fault in zip(chunk, drawn.images, drawn.faults, strict=True):
                images[index] = image
                faults[index] = fault
                if cache and not fault:
                    cache.keep(prompts[index], seeds[index], image)
            if progress:
                progress(len(images), len(prompts))
    return _in_order(images, faults, len(prompts))


def _in_order(images: Mapping[int, Tensor], faults: Mapping[int, str], count: int) -> Drawings:
    size = max((image.shape for image in images.values()), key=lambda shape: shape[-1], default=(3, 1, 1))
    # A batch that failed altogether has no size of its own; its stand-ins take that of the other pictures.
    ordered = [
        images[i] if images[i].shape == size else torch.zeros(size, dtype=torch.uint8) for i in range(count)
    ]
    stacked = torch.stack(ordered) if ordered else torch.zeros((0, *size), dtype=torch.uint8)
    return Drawings(stacked, tuple(faults.get(index, "") for index in range(count)))


def _draw_batch(pipe: Any, prompts: list[str], seeds: list[int], sampling: Sampling) -> Drawings:
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    try:
        with torch.no_grad():  # what a pipeline moves to its device here must stay trainable
            images = pipe(
                prompt=prompts,
                generator=generators,
                num_inference_steps=sampling.steps,
                guidance_scale=sampling.guidance_scale,
                output_type="pt",
            ).images
    except RuntimeError as error:
        logger.warning("%d pictures could not be drawn: %s", len(prompts), error)
        return Drawings(torch.zeros((len(prompts), 3, 1, 1), dtype=torch.uint8), (str(error),) * len(prompts))
    images = images.detach().float().cpu()
    finite = images.isfinite().flatten(1).all(dim=1)
    quantised = (images.nan_to_num(0, 0, 0).clamp(0, 1) * 255).round().to(torch.uint8)
    quantised[~finite] = 0
    return Drawings(quantised, tuple("" if ok else NOT_FINITE for ok in finite.tolist()))


@contextmanager
def _measuring(pipe: Any) -> Iterator[None]:
    """Silence the progress bar, and take out the safety checker, which would black out pictures."""
    checker = getattr(pipe, "safety_checker", None)
    bar = getattr(pipe, "_progress_bar_config", None)
    pipe.set_progress_bar_config(disable=True)
    if checker is not None:
        pipe.safety_checker = None
    try:
        yield
    finally:
        if checker is not None:
            pipe.safety_checker = checker
        if bar is None:
            del pipe._progress_bar_config
        else:
            pipe._progress_bar_config = bar


@dataclass(frozen=True)
class Artist:
    """A pipeline with everything that drawing for one measurement needs; hashes the weights once.

    Attributes:
        pipe: The pipeline.
        sampling: Steps and guidance scale.
        batch_size: Pictures drawn together.
        folder: Where pictures are kept between runs, or None.
    """

    pipe: Any
    sampling: Sampling
    batch_size: int = DEFAULT_BATCH_SIZE
    folder: Path | None = None

    @cached_property
    def cache(self) -> PictureCache | None:
        """The pictures of exactly these weights and settings."""
        if self.folder is None:
            return None
        return PictureCache(self.folder, pipeline_identity(self.pipe, self.sampling))

    def draw(
        self, prompts: Sequence[str], seeds: Sequence[int], progress: Progress | None = None
    ) -> Drawings:
        """Draw one picture per prompt and seed; see `draw`."""
        return draw(
            self.pipe,
            prompts,
            seeds,
            sampling=self.sampling,
            batch_size=self.batch_size,
            cache=self.cache,
            progress=progress,
        )
