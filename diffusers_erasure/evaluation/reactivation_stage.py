"""Where manipulations are measured: the pipelines, the prompts with their judges, and the plain pictures.

Every item draws the same prompts with the same seeds; pictures of base and erasure are kept on disk and come
back from there. Broken pictures never reach a judge.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusers_erasure.attacks.base import AttackedPrompt, AttackTarget
from diffusers_erasure.diffusion.components import DiffusionComponents
from diffusers_erasure.pipelines.verifying import verify_erasure

from .attack_groups import Group, prompts_of
from .attack_runner import Tell
from .controls import picture_fault
from .generate import DEFAULT_BATCH_SIZE, Artist, Drawings, Progress, Sampling
from .reactivation_report import CountedPictures
from .subject import Subject
from .worst_case import FAILED, NONE, SUCCESS


@dataclass(frozen=True)
class Seen:
    """Pictures with what was counted of them.

    Attributes:
        counts: In how many the judge sees the concept.
        images: `(pictures, 3, height, width)`, uint8.
    """

    counts: CountedPictures
    images: Tensor


@dataclass(frozen=True)
class Stage:
    """What every item is measured with.

    Attributes:
        subject: The base, the erased pipeline and the artifact; none of them is changed.
        groups: The concept's own name, by the question asked.
        sampling: Steps and guidance scale of every picture.
        batch_size: Pictures drawn together.
        pictures: Folder where finished pictures of base and erasure are kept, or None.
    """

    subject: Subject
    groups: tuple[Group, ...]
    sampling: Sampling
    batch_size: int = DEFAULT_BATCH_SIZE
    pictures: Path | None = None

    @cached_property
    def items(self) -> tuple[AttackedPrompt, ...]:
        """Every prompt with its seed."""
        return prompts_of(self.groups)

    @cached_property
    def base(self) -> Artist:
        """Draws with the base."""
        return Artist(self.subject.base, self.sampling, self.batch_size, self.pictures)

    @cached_property
    def erased(self) -> Artist:
        """Draws with the erasure as it is."""
        return Artist(self.subject.erased, self.sampling, self.batch_size, self.pictures)

    @cached_property
    def components(self) -> DiffusionComponents:
        """Parts of the erased pipeline.

        Raises:
            ConfigError: It has two text encoders, or lacks a part.
        """
        return DiffusionComponents.from_pipeline(self.subject.erased)

    @cached_property
    def base_target(self) -> AttackTarget:
        """The base as attacks see it; its judge is not asked."""
        return AttackTarget.of(
            self.subject.base,
            lambda images: torch.zeros(len(images), dtype=torch.bool),
            steps=self.sampling.steps,
            guidance_scale=self.sampling.guidance_scale,
            picture_batch=self.batch_size,
        )

    def state(self) -> str:
        """State of the erasure now, by all of its weights."""
        report = verify_erasure(self.subject.erased, self.subject.artifact)
        report.raise_unless_verified()
        return str(report.state)

    def draw(self, pipe: Any, progress: Progress | None = None) -> Drawings:
        """The concept's own name, drawn by a manipulated pipeline (or something that is called like one)."""
        return self.draw_with(Artist(pipe, self.sampling, self.batch_size), progress)

    def draw_with(self, artist: Artist, progress: Progress | None = None) -> Drawings:
        """The concept's own name, drawn by an artist."""
        prompts = [item.prompt for item in self.items]
        return artist.draw(prompts, [item.seed for item in self.items], progress)

    def shows(self, images: Tensor) -> Tensor:
        """Whether any judge sees what it is asked about, `(pictures,)` bool."""
        answers = [group.question(images) for group in self.groups]
        return torch.stack(answers).any(dim=0)

    def seen(self, drawings: Drawings) -> Seen:
        """Screen pictures of the concept's own name, show the whole ones to their judges, and count."""
        faults = [
            fault or picture_fault(image)
            for fault, image in zip(drawings.faults, drawings.images, strict=True)
        ]
        marks = [FAILED if fault else NONE for fault in faults]
        start = 0
        for group in self.groups:
            rows = [index for index in range(start, start + len(group.items)) if not faults[index]]
            start += len(group.items)
            if rows:
                answers = group.question(drawings.images[torch.tensor(rows)])
                for index, answer in zip(rows, answers.tolist(), strict=True):
                    marks[index] = SUCCESS if answer else NONE
        found = Counter(fault for fault in faults if fault)
        return Seen(CountedPictures.of("".join(marks), found), drawings.images)

    def by_prompt(self, images: Tensor) -> Mapping[tuple[str, int], Tensor]:
        """Pictures by prompt and seed."""
        return {(item.prompt, item.seed): image for item, image in zip(self.items, images, strict=True)}


def watching(tell: Tell | None, name: str) -> Progress | None:
    """Progress of one drawing or training, told under a name."""
    if tell is None:
        return None

    def watch(done: int, total: int) -> None:
        tell(name, done, total)

    return watch


def labels_of(groups: Sequence[Group]) -> tuple[str, ...]:
    """Labels that count as showing the concept."""
    return tuple(dict.fromkeys(label for group in groups for label in group.question.labels))
