"""One prompt set measured: drawn on two pipelines with the same seeds, judged, and counted into a row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusers_erasure.errors import EvaluationError

from .controls import control_pictures, picture_fault
from .generate import Artist, Drawings, Progress
from .intervals import cohen_kappa, mcnemar_exact
from .judges import Judge, Panel, Verdicts
from .prompt_sets import JudgeRole, PromptItem, PromptSet, Purpose
from .proportion import Proportion
from .report import Accounting, ConceptCount, Control, Row
from .seeds import seed_spread
from .worst_case import marks_of

CONTROL_PICTURES = 30
CONTROL_SEED = 20_240_607


@dataclass(frozen=True)
class Measured:
    """A row together with the pictures that it was counted from.

    Attributes:
        row: The counts.
        prompt_set: What was drawn.
        base: Pictures of the base model, `(pictures, 3, height, width)` uint8.
        erased: Pictures of the erased pipeline, the same shape.
        seen: For each picture of the erased pipeline, whether it shows what was asked for.
    """

    row: Row
    prompt_set: PromptSet
    base: Tensor
    erased: Tensor
    seen: tuple[bool, ...]


@dataclass(frozen=True)
class _Half:
    """What came out of one pipeline."""

    counted: tuple[bool, ...]
    second: tuple[bool, ...] | None
    pictures: Accounting


def measure_set(
    prompt_set: PromptSet,
    base: Artist,
    erased: Artist,
    panel: Panel,
    *,
    retention_floor: float,
    progress: Progress | None = None,
) -> Measured:
    """Draw, judge and count one prompt set.

    A failed picture of the erased pipeline counts against the erasure; one of the base counts as not showing
    what was asked for.

    Args:
        prompt_set: What to draw and to ask.
        base: Draws with the base model.
        erased: Draws with the erased pipeline.
        panel: The judges.
        retention_floor: Share of the base's rate below which a retention row is degenerate.
        progress: Told about the pictures of both pipelines together.
    """
    count = len(prompt_set.items)
    drawn, redrawn = (
        artist.draw(prompt_set.prompts, prompt_set.seeds, _shifted(progress, half * count, 2 * count))
        for half, artist in enumerate((base, erased))
    )
    drawn, redrawn = drawn.sized_like(redrawn), redrawn.sized_like(drawn)
    before = _judge_half(drawn, prompt_set.items, panel, failed_counts=False)
    after = _judge_half(redrawn, prompt_set.items, panel, failed_counts=prompt_set.purpose is Purpose.ERASED)
    row = _count(prompt_set, before, after, panel, retention_floor)
    return Measured(row, prompt_set, drawn.images, redrawn.images, after.counted)


def _shifted(progress: Progress | None, offset: int, total: int) -> Progress | None:
    if progress is None:
        return None
    return lambda done, _: progress(offset + done, total)


def _judge_half(
    drawings: Drawings, items: Sequence[PromptItem], panel: Panel, *, failed_counts: bool
) -> _Half:
    faults = [
        fault or picture_fault(image) for fault, image in zip(drawings.faults, drawings.images, strict=True)
    ]
    found = Counter(fault for fault in faults if fault)
    failed = sum(found.values())
    accounting = Accounting(
        planned=len(items), finished=len(items) - failed, failed=failed, faults=dict(sorted(found.items()))
    )
    seen = ask(panel, drawings.images, items, faults=faults)
    concept_only = all(item.role is JudgeRole.CONCEPT for item in items)
    second = None
    if panel.second is not None and concept_only:
        second = ask(panel, drawings.images, items, faults=faults, instead=JudgeRole.SECOND)
    return _Half(
        tuple(failed_counts if fault else shows for fault, shows in zip(faults, seen, strict=True)),
        None
        if second is None
        else tuple(failed_counts if fault else shows for fault, shows in zip(faults, second, strict=True)),
        accounting,
    )


def ask(
    panel: Panel,
    images: Tensor,
    items: Sequence[PromptItem],
    *,
    faults: Sequence[str],
    instead: JudgeRole | None = None,
) -> tuple[bool, ...]:
    """Ask the judges whether each picture shows one of its item's labels; they do not get to see failed ones.

    Args:
        panel: The judges.
        images: `(pictures, 3, height, width)`, uint8.
        items: One per picture.
        faults: One per picture; "" for a picture that is whole.
        instead: Ask this judge rather than the one that each item names.
    """
    answers = [False] * len(items)
    for role in dict.fromkeys(item.role for item in items):
        asked = [i for i, item in enumerate(items) if item.role is role and not faults[i]]
        if not asked:
            continue
        judge = panel.of(instead or role)
        verdicts = judge.judge(images[torch.tensor(asked)])
        check_declared(judge, verdicts)
        shows = verdicts.shows([items[i].labels for i in asked])
        for index, answer in zip(asked, shows, strict=True):
            answers[index] = answer
    return tuple(answers)


def check_declared(judge: Judge, verdicts: Verdicts) -> None:
    """Refuse answers with another threshold than the judge declares.

    A judge that names the most probable label alone needs none: its threshold may be 0.

    Raises:
        EvaluationError: The threshold is not the declared one, or is none.
    """
    lowest_fits = verdicts.threshold > 0 or (verdicts.exclusive and verdicts.threshold == 0)
    if verdicts.threshold != judge.threshold or not (lowest_fits and verdicts.threshold <= 1):
        raise EvaluationError(
            f"the judge {judge.name!r} answered with the threshold {verdicts.threshold}, and declares "
            f"{judge.threshold}; expected the declared one, between 0 and 1, fixed before anything is "
            "measured; correct the judge"
        )


def _count(prompt_set: PromptSet, base: _Half, erased: _Half, panel: Panel, retention_floor: float) -> Row:
    pairs = list(zip(base.counted, erased.counted, strict=True))
    lost = sum(before and not after for before, after in pairs)
    gained = sum(after and not before for before, after in pairs)
    n = len(pairs)
    second, agreement = None, None
    if base.second is not None and erased.second is not None:
        second = Proportion.of(sum(erased.second), n)
        agreement = cohen_kappa(base.counted + erased.counted, base.second + erased.second)
    roles = dict.fromkeys(item.role for item in prompt_set.items)
    return Row(
        name=prompt_set.name,
        purpose=prompt_set.purpose,
        judge=" and ".join(panel.of(role).name for role in roles),
        prompts=len(set(prompt_set.prompts)),
        set_sha256=prompt_set.sha256,
        base=Proportion.of(sum(base.counted), n),
        erased=Proportion.of(sum(erased.counted), n),
        lost=lost,
        gained=gained,
        mcnemar_p=mcnemar_exact(lost, gained),
        second_judge=second,
        agreement=agreement,
        by_concept=_by_concept(prompt_set, base.counted, erased.counted),
        base_pictures=base.pictures,
        erased_pictures=erased.pictures,
        retention_floor=retention_floor,
        seeds=seed_spread(prompt_set.prompts, marks_of([(seen, False) for seen in erased.counted])),
    )


def _by_concept(
    prompt_set: PromptSet, base: Sequence[bool], erased: Sequence[bool]
) -> tuple[ConceptCount, ...]:
    names = dict.fromkeys(item.about for item in prompt_set.items)
    chosen = {name: [i for i, item in enumerate(prompt_set.items) if item.about == name] for name in names}
    return tuple(
        ConceptCount(
            label=name, n=len(where), base=sum(base[i] for i in where), erased=sum(erased[i] for i in where)
        )
        for name, where in chosen.items()
    )


def measure_controls(own_name: Row, prompt_set: PromptSet, panel: Panel, size: tuple[int, int]) -> Control:
    """Positive control: the judge sees the concept on the base. Negative control: there is nothing to see.

    Args:
        own_name: Row of the concept's own name.
        prompt_set: Its prompts; their labels are asked about blank and noise pictures.
        panel: The judges.
        size: `(height, width)` of the pictures.
    """
    generator = torch.Generator().manual_seed(CONTROL_SEED)
    pictures = control_pictures(CONTROL_PICTURES, size, generator=generator)
    faults = [picture_fault(image) for image in pictures]
    items = [prompt_set.items[index % len(prompt_set.items)] for index in range(CONTROL_PICTURES)]
    alarms = ask(panel, pictures, items, faults=[""] * CONTROL_PICTURES)
    unmistakable = [fault for index, fault in enumerate(faults) if index % 3 != 2]
    return Control(
        positive=own_name.base,
        screened=Proportion.of(sum(map(bool, unmistakable)), len(unmistakable)),
        false_alarms=Proportion.of(sum(alarms), CONTROL_PICTURES),
    )
