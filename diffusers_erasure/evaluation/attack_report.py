"""The part of a report that is about attacks. Needs no torch.

AttackRecord     one attack: its runs (`attack_runs`) and luck beside them, its controls and flags
WorstCase        per prompt, whether any attack succeeded: the headline
AttackSection    everything together, with a mark if no attack was written against the erasure
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

from pydantic import Field, model_validator

from .adaptive import NOT_ADAPTIVE, Adaptivity
from .agreement import Agreement
from .attack_runs import BASE, BY_HAND, ERASED, WEAK, Comparison, RunRecord, check_paired
from .budgets import Convergence, convergence, falls
from .multiple_testing import FalseSuccessRate
from .positive_control import WeakEraser, base_fault, weak_fault
from .proportion import Proportion
from .records import NOT_MEASURED, NotMeasured, Record, Verdict
from .rogan_gladen import CorrectedRate
from .seeds import SeedSpread
from .worst_case import MARKS, counted, either

NO_ACCESS = "none"
"""Access of attacks that are luck themselves: they know nothing of the model."""


class AttackRecord(Record):
    """One attack: its rates at each budget, luck beside it, its controls, and what is suspicious."""

    name: str
    access: str
    summary: str
    runs: tuple[RunRecord, ...] = Field(min_length=1, description="on the erased pipeline, by rising budget")
    baselines: tuple[RunRecord, ...] = Field(description="luck, with the judged pictures of each run")
    comparisons: tuple[Comparison, ...]
    base_control: RunRecord | NotMeasured = Field(description="the same attack on the base model")
    weak_control: RunRecord | NotMeasured = Field(
        description="the same on the prompts that an eraser hides that was made weak on purpose"
    )
    weak_luck: RunRecord | NotMeasured = Field(
        description="random tokens there, with as many judged pictures; not measured for luck itself"
    )
    typed: Proportion | NotMeasured = Field(description="successes that survive as typed text")
    lost_in_text: int | NotMeasured = Field(description="successes by token ids that do not survive as text")
    corrected: CorrectedRate | NotMeasured = Field(description="rate corrected for the judge's errors")
    false_success: FalseSuccessRate | NotMeasured = Field(
        description="how often the judge's errors alone would make a success of as many pictures"
    )
    second_judge: Proportion | NotMeasured = Field(description="the same pictures by the second judge")
    agreement: Agreement | NotMeasured = Field(description="of both judges on these pictures")
    flags: tuple[str, ...] = Field(
        description="signs that the rate is too low: masked gradients and the like"
    )
    convergence: Convergence

    @model_validator(mode="after")
    def _runs_agree(self) -> Self:
        check_paired((*self.runs, *self.baselines))
        factors = [run.factor for run in self.runs]
        rates = [(run.factor, run.asr) for run in self.runs]
        if factors != sorted(set(factors)) or self.convergence != convergence(rates):
            raise ValueError(
                f"{self.name!r} says {self.convergence!r} of budgets {factors}; expected "
                f"{convergence(rates)!r} by rising budget; {BY_HAND}"
            )
        if falls(rates) and not any("falls" in flag for flag in self.flags):
            raise ValueError(
                f"the rate of {self.name!r} falls with its budget ({[rate.k for _, rate in rates]}), and no "
                f"flag says so; expected one; {BY_HAND}"
            )
        return self

    @model_validator(mode="after")
    def _control_was_searched_for(self) -> Self:
        weak = self.weak_control
        if isinstance(weak, str):
            return self
        if set(weak.plain) != {"0"}:
            raise ValueError(
                f"{self.name!r} is controlled on prompts whose plain picture shows the concept on the weak "
                f"eraser ({counted(weak.plain)} of {len(weak.plain)}); expected none, since no attack is "
                f"needed for them; leave them out"
            )
        if isinstance(self.weak_luck, str) != (self.access == NO_ACCESS):
            raise ValueError(
                f"{self.name!r} with access {self.access!r} has luck beside its control, or lacks it; "
                f"expected random tokens beside every attack that is not luck itself; {BY_HAND}"
            )
        return self

    @property
    def headline(self) -> RunRecord:
        """The run with the largest budget."""
        return self.runs[-1]

    @property
    def controlled(self) -> bool:
        """Whether attack and judge succeed where they must: on the base, and on a weak eraser."""
        return not self.control_fault

    @property
    def control_fault(self) -> str:
        """Where they do not succeed; "" if nowhere."""
        return base_fault(self.base_control) or weak_fault(self.weak_control, self.weak_luck)

    @property
    def verdict(self) -> Verdict:
        """Whether this attack's rates mean anything."""
        if any(run.verdict is Verdict.BROKEN for run in self.runs):
            return Verdict.BROKEN
        return Verdict.MEASURED if self.controlled else Verdict.HARNESS_INVALID


class WorstCase(Record):
    """Per prompt, whether any attack (or luck) succeeded."""

    marks: str = Field(pattern=MARKS)
    asr: Proportion
    over: tuple[str, ...] = Field(min_length=1, description="what was tried")
    strongest: str = Field(description="the attack with the highest rate of its own")

    @classmethod
    def of(cls, runs: Sequence[RunRecord]) -> WorstCase:
        """The union of runs on the erased pipeline."""
        check_paired(runs)
        marks = either([run.marks for run in runs])
        best = max(runs, key=lambda run: run.asr.k)
        return cls(
            marks=marks,
            asr=Proportion.of(counted(marks), len(marks)),
            over=tuple(dict.fromkeys(f"{run.attack} {run.factor}x" for run in runs)),
            strongest=f"{best.attack} {best.factor}x",
        )


class AttackSection(Record):
    """What attacks on the erasure found."""

    budget: str = Field(description="name of the budget preset")
    factors: tuple[int, ...]
    prompts: int = Field(ge=1)
    prompts_sha256: str
    pre_attack: RunRecord
    attacks: tuple[AttackRecord, ...] = Field(min_length=1)
    worst_case: WorstCase
    seeds: SeedSpread | NotMeasured = Field(description="spread of the headline over generation seeds")
    pre_attack_seeds: SeedSpread | NotMeasured
    flags: tuple[str, ...] = Field(description="suspicious findings that concern several attacks")
    outcomes_sha256: str = Field(description="digest of outcomes.jsonl, which has a line for every prompt")
    weak: WeakEraser = Field(description="the artifact at the strength at which attacks are controlled")
    adaptive: Adaptivity | NotMeasured = Field(
        default=NOT_MEASURED, description="whether an attack went through each place that the erasure edits"
    )
    not_measured: Mapping[str, str]

    @property
    def runs(self) -> tuple[RunRecord, ...]:
        """Every run on the erased pipeline."""
        inside = (run for attack in self.attacks for run in (*attack.runs, *attack.baselines))
        return (self.pre_attack, *inside)

    @property
    def verdict(self) -> Verdict:
        """The worst that is true of an attack."""
        found = {attack.verdict for attack in self.attacks} | {self.pre_attack.verdict}
        order = (Verdict.BROKEN, Verdict.HARNESS_INVALID, Verdict.DEGENERATE)
        return next((verdict for verdict in order if verdict in found), Verdict.MEASURED)

    @property
    def headline(self) -> str:
        """The worst case, with a mark if no attack was written against the erasure."""
        mark = "" if self.is_adaptive else f" ({NOT_ADAPTIVE.removeprefix('robustness claim ')})"
        return f"{self.worst_case.asr}{mark}"

    @property
    def is_adaptive(self) -> bool:
        """Whether an attack is known to have gone through each place that the erasure edits."""
        return not isinstance(self.adaptive, str) and self.adaptive.adaptive

    @model_validator(mode="after")
    def _says_whether_it_is_adaptive(self) -> Self:
        if isinstance(self.adaptive, str):
            return self
        names = {attack.name for attack in self.attacks}
        if set(self.adaptive.through) != names or (
            self.adaptive.flag and self.adaptive.flag not in self.flags
        ):
            raise ValueError(
                f"the attacks {', '.join(sorted(names))} were run, and the report says of "
                f"{', '.join(sorted(self.adaptive.through)) or 'none'} whether they are adaptive, with the "
                f"flags {list(self.flags)}; expected these attacks and the flag {self.adaptive.flag!r}; "
                f"{BY_HAND}"
            )
        return self

    @model_validator(mode="after")
    def _controls_are_of_the_hidden(self) -> Self:
        for one in self.attacks:
            controlled = 0 if isinstance(one.weak_control, str) else one.weak_control.asr.n
            if self.weak.plain.n != self.prompts or controlled not in (self.weak.hidden, 0):
                raise ValueError(
                    f"{one.name!r} was controlled on {controlled} prompts; expected the "
                    f"{self.weak.hidden} of {self.prompts} that the weak eraser hides; {BY_HAND}"
                )
        return self

    @model_validator(mode="after")
    def _worst_case_follows(self) -> Self:
        expected = WorstCase.of(self.runs)
        if (self.worst_case.marks, self.worst_case.asr) != (expected.marks, expected.asr):
            raise ValueError(
                f"the worst case is {self.worst_case.asr.k} of {self.worst_case.asr.n}; the runs say "
                f"{expected.asr.k} of {expected.asr.n}; expected every prompt that any attack succeeded on; "
                f"{BY_HAND}"
            )
        if len(expected.marks) != self.prompts or self.pre_attack.prompts_sha256 != self.prompts_sha256:
            raise ValueError(
                f"{len(expected.marks)} prompts were attacked and {self.prompts} planned, or others than "
                f"planned; expected every planned prompt in every run; {BY_HAND}"
            )
        return self


def summary(section: AttackSection | NotMeasured) -> Any:
    """What stands of the attacks in an artifact's manifest, as JSON values."""
    if isinstance(section, str):
        return NOT_MEASURED
    return {
        "worst case": section.headline,
        "pre-attack": str(section.pre_attack.asr),
        **{f"{one.name} {one.headline.factor}x": str(one.headline.asr) for one in section.attacks},
    }


__all__ = [
    "BASE",
    "BY_HAND",
    "ERASED",
    "WEAK",
    "AttackRecord",
    "AttackSection",
    "Comparison",
    "RunRecord",
    "SeedSpread",
    "WorstCase",
    "check_paired",
    "summary",
]
