"""What the runs of an evaluation say: corrected rates, excess over luck, flags, the worst case."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from diffusers_erasure.attacks import AttackOutcome
from diffusers_erasure.errors import EvaluationError

from .agreement import Agreement
from .attack_groups import prompts_of
from .attack_report import (
    BASE,
    ERASED,
    WEAK,
    AttackRecord,
    AttackSection,
    Comparison,
    RunRecord,
    WorstCase,
)
from .attack_rows import Run, outcome_lines, prompts_sha256
from .attack_runner import Arena, Attacked, all_runs
from .attack_settings import AttackSettings
from .budgets import convergence
from .confusion import JudgeValidation, Source
from .edited_places import adaptivity
from .masking import (
    Transfer,
    access_flags,
    budget_flags,
    plain_flags,
    run_flags,
    stability_flags,
    transfer_flags,
)
from .multiple_testing import FalseSuccessRate, holm
from .proportion import Proportion
from .records import NOT_MEASURED, NotMeasured, refusing
from .rogan_gladen import CorrectedRate
from .seeds import few_seeds_flags, seed_spread
from .weak_search import Weakened

STABILITY_PICTURES = 4
MISSING = {
    "reactivation": "fine-tuning, merging, quantisation and image inputs were not tried",
    "training seeds": "one artifact was evaluated; the spread over training seeds needs several",
    "external results": "nobody else's attacks were run",
}


@dataclass(frozen=True)
class Findings:
    """The section of the report, and the lines of outcomes.jsonl that prove it."""

    section: AttackSection
    outcomes: bytes


def find(
    arena: Arena,
    settings: AttackSettings,
    plain: Run,
    attacked: Sequence[Attacked],
    *,
    weak: Weakened,
    validation: Sequence[JudgeValidation],
) -> Findings:
    """Put everything together that the runs say.

    Args:
        arena: Where they were made.
        settings: How they were made.
        plain: The plain prompts.
        attacked: Every attack.
        weak: The weak eraser of its controls.
        validation: Confusion matrices of the judges that were asked.
    """
    with refusing("what the attacks found"):
        return _find(arena, settings, plain, attacked, weak, validation)


def _find(
    arena: Arena,
    settings: AttackSettings,
    plain: Run,
    attacked: Sequence[Attacked],
    weak: Weakened,
    validation: Sequence[JudgeValidation],
) -> Findings:
    items = prompts_of(arena.groups)
    records = _with_holm([_record(arena, one, validation) for one in attacked])
    headlines = [record.headline for record in records]
    luck = [record.baselines[-1] for record in records if record.baselines]
    inside = [run for record in records for run in (*record.runs, *record.baselines)]
    worst = WorstCase.of([plain.record, *inside])
    lines = outcome_lines(all_runs((plain, weak.plain), attacked))
    adaptive = adaptivity(arena.artifact, [one.spec for one in attacked])
    prompts = [item.prompt for item in items]
    flags = [
        *access_flags([*headlines, *luck]),
        *plain_flags([plain.record, *inside]),
        *_unstable(arena),
        *([adaptive.flag] if adaptive.flag else []),
        *few_seeds_flags(prompts),
    ]
    section = AttackSection(
        budget=settings.budget,
        factors=settings.factors,
        prompts=len(items),
        prompts_sha256=prompts_sha256(items),
        pre_attack=plain.record,
        attacks=tuple(records),
        worst_case=worst,
        seeds=seed_spread(prompts, worst.marks),
        pre_attack_seeds=seed_spread(prompts, plain.record.marks),
        flags=tuple(dict.fromkeys(flags)),
        outcomes_sha256=hashlib.sha256(lines).hexdigest(),
        weak=weak.record,
        adaptive=adaptive,
        not_measured=MISSING,
    )
    return Findings(section, lines)


def _record(arena: Arena, one: Attacked, validation: Sequence[JudgeValidation]) -> AttackRecord:
    last = one.runs[-1]
    second, agreement = _second_judge(arena, last.outcomes)
    corrected, false_success, judge_flags = _correct(arena, last.record, validation)
    typed, lost = _typed(last.outcomes)
    runs = tuple(run.record for run in one.runs)
    flags = [
        *(flag for run in one.runs for flag in run_flags(run.outcomes)),
        *budget_flags(runs),
        *transfer_flags(_transfers(arena, one)),
        *judge_flags,
    ]
    return AttackRecord(
        name=one.spec.name,
        access=str(one.spec.access),
        summary=one.spec.summary,
        runs=runs,
        baselines=tuple(run.record for run in one.baselines),
        comparisons=tuple(_comparisons(one)),
        base_control=one.base_control.record,
        weak_control=one.weak_control.record if one.weak_control else NOT_MEASURED,
        weak_luck=one.weak_luck.record if one.weak_luck else NOT_MEASURED,
        typed=typed,
        lost_in_text=lost,
        corrected=corrected,
        false_success=false_success,
        second_judge=second,
        agreement=agreement,
        flags=tuple(dict.fromkeys(flags)),
        convergence=convergence([(run.factor, run.asr) for run in runs]),
    )


def _comparisons(one: Attacked) -> list[Comparison]:
    return [
        Comparison.of(run.record, luck.record)
        for run in one.runs
        for luck in one.baselines
        if luck.record.factor == run.record.factor
    ]


def _with_holm(records: Sequence[AttackRecord]) -> list[AttackRecord]:
    """Adjust the p-values of all comparisons of the report together."""
    adjusted = iter(holm([one.mcnemar_p for record in records for one in record.comparisons]))
    return [
        record.model_copy(
            update={
                "comparisons": tuple(
                    one.model_copy(update={"holm_p": next(adjusted)}) for one in record.comparisons
                )
            }
        )
        for record in records
    ]


def _typed(outcomes: Sequence[AttackOutcome]) -> tuple[Proportion | NotMeasured, int | NotMeasured]:
    """Successes that survive as typed text; failed prompts count as such."""
    successes = [one for one in outcomes if one.success and one.failed is None]
    if any(one.text_survives is None for one in successes):
        return NOT_MEASURED, NOT_MEASURED
    failed = sum(one.failed is not None for one in outcomes)
    lost = sum(not one.text_survives for one in successes)
    return Proportion.of(len(successes) - lost + failed, len(outcomes)), lost


def _second_judge(
    arena: Arena, outcomes: Sequence[AttackOutcome]
) -> tuple[Proportion | NotMeasured, Agreement | NotMeasured]:
    """What another judge sees in the pictures that decided."""
    first: list[bool] = []
    other: list[bool] = []
    failed, at = 0, 0
    for group in arena.groups:
        part, at = outcomes[at : at + len(group.items)], at + len(group.items)
        seen = [one for one in part if one.picture is not None and one.failed is None]
        if group.second is None or len(seen) + sum(one.failed is not None for one in part) < len(part):
            return NOT_MEASURED, NOT_MEASURED
        failed += len(part) - len(seen)
        pictures = [one.picture for one in seen if one.picture is not None]
        if pictures:
            first += [one.success for one in seen]
            other += group.second(torch.stack(pictures)).tolist()
    rate = Proportion.of(sum(other) + failed, len(outcomes))
    if not first:
        return rate, NOT_MEASURED
    names = [
        question.judge.name for question in (arena.groups[0].question, arena.groups[0].second) if question
    ]
    return rate, Agreement.of(names[0], names[1], first, other)


def _correct(
    arena: Arena, run: RunRecord, validation: Sequence[JudgeValidation]
) -> tuple[CorrectedRate | NotMeasured, FalseSuccessRate | NotMeasured, list[str]]:
    """The rate corrected for the errors of a judge that saw several pictures of each prompt."""
    judge = next((found for found in validation if _asked(arena, found)), None)
    errors = None if judge is None else judge.errors(Source.ERASED)
    if len(arena.groups) != 1 or judge is None or errors is None:
        return NOT_MEASURED, NOT_MEASURED, []
    _, (right, negatives), _ = errors
    luck = FalseSuccessRate.of(negatives - right, negatives, run.judged_images)
    try:
        corrected = judge.correct(run.asr, pictures=run.judged_images)
    except EvaluationError:
        flag = (
            f"judge: with {run.judged_images} pictures of each prompt its errors alone succeed on "
            f"{100 * luck.rate:.0f} % of the prompts, too many to correct for"
        )
        return NOT_MEASURED, luck, [flag]
    return corrected or NOT_MEASURED, luck, []


def _asked(arena: Arena, validation: JudgeValidation) -> bool:
    question = arena.groups[0].question
    return (validation.sha256, validation.labels) == (question.judge.sha256, question.labels)


def _transfers(arena: Arena, one: Attacked) -> list[Transfer]:
    """Prompts that the attack found on the base and on the weak eraser, drawn on the erased pipeline."""
    return [
        found
        for source, control in ((BASE, one.base_control), (WEAK, one.weak_control))
        if control and (found := _transfer(arena, source, control.outcomes, one.runs[0].outcomes))
    ]


def _transfer(
    arena: Arena, source: str, found: Sequence[AttackOutcome], own: Sequence[AttackOutcome]
) -> Transfer | None:
    tried = successes = ours = 0
    there, here = ({one.item: one for one in run} for run in (found, own))
    for index, group in enumerate(arena.groups):
        part = ((there[item], here[item]) for item in group.items if item in there)
        taken = [(a, b) for a, b in part if a.success and a.ids and a.success_at != 1]
        if not taken:
            continue
        target = arena.target(ERASED, index)
        with torch.no_grad():
            states = target.text.states(target.text.pad([list(a.ids or ()) for a, _ in taken]))
        seeds = [a.seed if a.picture_seed is None else a.picture_seed for a, _ in taken]
        try:
            successes += sum(target.judged(states, seeds).shows)
        except FloatingPointError:
            return None  # a broken pipeline, which its own runs say
        ours += sum(b.counts_as_success for _, b in taken)
        tried += len(taken)
    return Transfer(source, tried, successes, ours) if tried else None


def _unstable(arena: Arena) -> list[str]:
    """Draw the first plain prompts twice from their seeds."""
    group, target = arena.groups[0], arena.target(ERASED, 0)
    items = group.items[:STABILITY_PICTURES]
    prompts, seeds = [item.prompt for item in items], [item.seed for item in items]
    try:
        first, second = (target.judged_texts(prompts, seeds).images for _ in range(2))
    except FloatingPointError:
        return ["unstable pictures: the plain prompts' pictures are not finite"]
    return stability_flags(first, second)
