"""From outcomes of an attack to counts that cannot lie, and to one line of a file for every prompt.

What is counted must be complete (one outcome per planned prompt, in order) and of the erasure that is
reported: every outcome carries the state that was read inside the process that drew its pictures.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace

from diffusers_erasure.artifacts.manifest import canonical_json
from diffusers_erasure.attacks import AttackConfig, AttackedPrompt, AttackOutcome, AttackSpec
from diffusers_erasure.attacks.store import outcome_to_json
from diffusers_erasure.errors import ErasureNotActiveError, EvaluationError

from .attack_report import BASE, RunRecord
from .controls import picture_fault
from .proportion import Proportion
from .records import VERIFIED, Accounting, refusing
from .worst_case import counted, marks_of


@dataclass(frozen=True)
class Run:
    """One attack with one budget on one pipeline.

    Attributes:
        record: Its counts.
        outcomes: One per prompt, in their order.
    """

    record: RunRecord
    outcomes: tuple[AttackOutcome, ...]

    def without_pictures(self) -> Run:
        """The same without pictures, which take memory."""
        return replace(self, outcomes=tuple(replace(one, picture=None) for one in self.outcomes))

    def lines(self) -> Iterable[str]:
        """One line of JSON per prompt."""
        record = self.record
        proof = {
            "digest": record.digest,
            "pipeline": record.pipeline,
            "attack": record.attack,
            "factor": record.factor,
        }
        for outcome in self.outcomes:
            values = json.loads(outcome_to_json(outcome))
            yield json.dumps({**proof, **values}, sort_keys=True, allow_nan=False)


@dataclass(frozen=True)
class Budgeted:
    """An attack with settings, on a pipeline.

    Attributes:
        spec: The attack.
        config: Its settings at this budget.
        factor: Multiple of the budget.
        pipeline: "base", "erased" or "weak eraser".
        digest: Digest of the artifact; "" for the base.
    """

    spec: AttackSpec
    config: AttackConfig
    factor: int
    pipeline: str
    digest: str


def prompts_sha256(items: Sequence[AttackedPrompt]) -> str:
    """Digest of prompts and seeds, in their order."""
    return hashlib.sha256(canonical_json([asdict(item) for item in items])).hexdigest()


def count_run(what: Budgeted, items: Sequence[AttackedPrompt], outcomes: Sequence[AttackOutcome]) -> Run:
    """Count the outcomes of one run.

    Args:
        what: What was run.
        items: Every prompt that was planned.
        outcomes: What came of each, in the same order.

    Raises:
        EvaluationError: An outcome is missing, or one is of another prompt.
        ErasureNotActiveError: An outcome is not of the verified erasure.
    """
    _check_complete(what, items, outcomes)
    states = _states(what, outcomes)
    failed = Counter(_fault(one.failed) for one in outcomes if one.failed is not None)
    marks = marks_of([(one.success and one.failed is None, one.failed is not None) for one in outcomes])
    plain = marks_of([(one.success_at == 1, one.success_at is None and one.judged == 0) for one in outcomes])
    broken = sum(bool(picture_fault(one.picture)) for one in outcomes if one.picture is not None)
    n = len(items)
    with refusing(f"the run of {what.spec.name!r} on the {what.pipeline} pipeline"):
        record = RunRecord(
            attack=what.spec.name,
            access=str(what.spec.access),
            pipeline=what.pipeline,
            factor=what.factor,
            judged_images=what.config.judged_images,
            steps_allowed=what.config.work,
            settings=what.config.model_dump(mode="json"),
            prompts_sha256=prompts_sha256(items),
            digest=what.digest,
            state_before=states[0],
            state_after=states[1],
            marks=marks,
            plain=plain,
            prompts=Accounting(
                planned=n,
                finished=n - failed.total(),
                failed=failed.total(),
                faults=dict(sorted(failed.items())),
            ),
            asr=Proportion.of(counted(marks), n),
            most_images=max(one.judged for one in outcomes),
            images=sum(one.judged for one in outcomes),
            queries=sum(one.queries for one in outcomes),
            steps=sum(one.steps for one in outcomes),
            seconds=round(sum(one.seconds for one in outcomes), 2),
            broken_pictures=broken,
        )
    return Run(record, tuple(outcomes))


def _check_complete(
    what: Budgeted, items: Sequence[AttackedPrompt], outcomes: Sequence[AttackOutcome]
) -> None:
    found = [one.item for one in outcomes]
    if found != list(items):
        missing = len(set(items) - set(found))
        raise EvaluationError(
            f"{what.spec.name} on the {what.pipeline} pipeline has {len(found)} outcomes, {missing} of "
            f"{len(items)} planned prompts are missing or out of order; expected one outcome per prompt, "
            "since a lost one would count as a failed attack; run it again: it goes on from what is finished"
        )


def _states(what: Budgeted, outcomes: Sequence[AttackOutcome]) -> tuple[str, str]:
    """The state before and after, the worst of all prompts."""
    before = {one.state_before for one in outcomes}
    after = {one.state_after for one in outcomes}
    if what.pipeline == BASE:
        return min(before), min(after)
    wrong = sorted((before | after) - {VERIFIED})
    if wrong:
        raise ErasureNotActiveError(
            f"{what.spec.name} attacked a pipeline whose erasure was {wrong[0]!r}; expected {VERIFIED!r} "
            "before and after every prompt, or the figures would be of another model; load the artifact again"
        )
    return VERIFIED, VERIFIED


def _fault(text: str | None) -> str:
    """What kind of fault it was, short enough to be counted."""
    return (text or "").partition(":")[0][:80]


def outcome_lines(runs: Iterable[Run]) -> bytes:
    """The content of outcomes.jsonl."""
    return "".join(f"{line}\n" for run in runs for line in run.lines()).encode()
