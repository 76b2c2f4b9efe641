"""What fine-tuning learns from: pictures that the base itself draws of other things, never of the concept.

    unrelated   other kinds of things, and styles; when a style is erased, things without a style
    related     neighbours of the concept: its group, or what stands in its place; other styles for a style

Prompts are of the training split, and none says a word of the concept. A picture in which the judge sees the
concept all the same is left out and counted. So it works on any pipeline, without a data set.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusers_erasure.attacks.concept_prompts import concept_pairs
from diffusers_erasure.concepts import ConceptKind, ConceptSet
from diffusers_erasure.embedded.vocabulary import CONCEPTS, STYLES
from diffusers_erasure.errors import EvaluationError
from diffusers_erasure.prompts import World, fill, phrase, select_retain_prompts, templates
from diffusers_erasure.prompts.retain import word_pattern

from .embedded_prompts import Targets, find_targets
from .generate import Artist, Progress
from .reactivation_items import DataKind
from .reactivation_report import DataRecord

FIRST_DATA_SEED = 600_000_000
"""Seeds of the pictures start here, far below those of any test."""
SPARE = 2
"""Pictures drawn for one that is needed, since the judge may see the concept in some."""


@dataclass(frozen=True)
class TuningSet:
    """Pictures to learn from.

    Attributes:
        images: `(pictures, 3, height, width)`, uint8.
        prompts: One per picture.
        record: What a report says of them.
    """

    images: Tensor
    prompts: tuple[str, ...]
    record: DataRecord


def data_prompts(
    concepts: ConceptSet, kind: DataKind, *, world: World, words: Collection[str] = ()
) -> tuple[str, ...]:
    """Every prompt of a kind, none of which says a word of the concepts.

    Args:
        concepts: What was erased.
        kind: Unrelated or related.
        world: Whose prompts: the embedded pipeline's or a pretrained model's.
        words: Further words that were erased.

    Raises:
        EvaluationError: There is none.
    """
    prompts = _embedded(concepts, kind) if world == "embedded" else _general(concepts, kind)
    erased = word_pattern(concepts.words | {word.casefold() for word in words})
    found = tuple(dict.fromkeys(prompt for prompt in prompts if prompt and not erased.search(prompt)))
    if not found:
        raise EvaluationError(
            f"there is no {kind} prompt for {', '.join(concepts.names)}; expected some to draw pictures for "
            "fine-tuning from; leave these items out with --items"
        )
    return found


def _general(concepts: ConceptSet, kind: DataKind) -> list[str]:
    if kind == "unrelated":
        return list(select_retain_prompts(concepts, world="general", source="scenes").prompts)
    return [pair.target for leaf in concepts.leaves for pair in concept_pairs(leaf.name, leaf.kind)]


def _embedded(concepts: ConceptSet, kind: DataKind) -> list[str]:
    targets = find_targets(tuple(concepts))
    near, far = _things(targets)
    if targets.styles:
        others = [style for style in STYLES if style not in targets.styles]
        return _styled(near + far, others) if kind == "related" else _plain(near + far)
    return _plain(near) + _styled(near, STYLES) if kind == "related" else _plain(far) + _styled(far, STYLES)


def _things(targets: Targets) -> tuple[list[str], list[str]]:
    """Concepts of the erased ones' groups, and all others."""
    groups = {CONCEPTS[name].group for name in targets.objects}
    kept = [name for name in CONCEPTS if name not in targets.objects]
    return (
        [name for name in kept if CONCEPTS[name].group in groups],
        [name for name in kept if CONCEPTS[name].group not in groups],
    )


def _plain(names: Sequence[str]) -> list[str]:
    return [
        fill(template, name, kind=ConceptKind.object)
        for template in templates(ConceptKind.object, "train")
        for name in names
    ]


def _styled(names: Sequence[str], styles: Sequence[str]) -> list[str]:
    """Each thing in each style, in the wordings of styles in turn."""
    frames = templates(ConceptKind.style, "train")
    return [
        fill(frames[(row + column) % len(frames)], style, kind=ConceptKind.style, subject=phrase(name))
        for row, style in enumerate(styles)
        for column, name in enumerate(names)
    ]


def draw_tuning_set(
    prompts: Sequence[str],
    kind: DataKind,
    base: Artist,
    shows: Callable[[Tensor], Tensor],
    *,
    pictures: int,
    seed: int,
    progress: Progress | None = None,
) -> TuningSet:
    """Let the base draw what fine-tuning learns from.

    Args:
        prompts: What may be drawn.
        kind: Unrelated or related.
        base: Draws with the un-erased model.
        shows: Does a picture show an erased concept? `(pictures,)` bool.
        pictures: How many are needed.
        seed: Which of the prompts are taken.
        progress: Told about the pictures.

    Raises:
        EvaluationError: The judge sees the concept in all of them, or the base draws none.
    """
    count = SPARE * pictures
    generator = torch.Generator().manual_seed(seed)
    order = torch.cat([torch.randperm(len(prompts), generator=generator) for _ in range(count)])[:count]
    asked = [prompts[index] for index in order.tolist()]
    seeds = [FIRST_DATA_SEED + index for index in range(count)]
    drawn = base.draw(asked, seeds, progress)
    whole = torch.tensor([not fault for fault in drawn.faults]) & ~shows(drawn.images)
    chosen = whole.nonzero().flatten()[:pictures]
    if not len(chosen):
        raise EvaluationError(
            f"the judge sees the concept in all {count} {kind} pictures of the base, or none could be drawn; "
            "expected pictures of other things; check the judge and its labels"
        )
    looked_at = int(chosen[-1]) + 1
    used = tuple(asked[index] for index in chosen.tolist())
    rows = [[asked[index], seeds[index]] for index in chosen.tolist()]
    record = DataRecord(
        kind=kind,
        prompts=used,
        dropped=looked_at - len(chosen),
        sha256=hashlib.sha256(json.dumps(rows).encode()).hexdigest(),
    )
    return TuningSet(drawn.images[chosen], used, record)
