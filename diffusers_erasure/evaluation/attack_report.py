"""The part of a report that is about attacks. Needs no torch.

    RunRecord        one attack with one budget on one pipeline: which prompts it brought the concept back for
    Comparison       an attack beside luck with as many judged pictures
    AttackRecord     all of that for one attack, with its controls and flags
    WorstCase        per prompt, whether any attack succeeded: the headline
    AttackSection    everything together, with a mark if no attack was written against the erasure

A run keeps one mark per prompt in the order in which they were planned: `1` success, `0` none, `F` failed.
All its counts must follow from these marks, failed ones counted as successes, and only runs over the very
same prompts and seeds are compared. So a lost prompt, a rate that was put together from two runs, or an
attack that showed the judge more pictures than it said cannot become a report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

from pydantic import Field, JsonValue, model_validator

from .adaptive import NOT_ADAPTIVE, Adaptivity
from .agreement import Agreement
from .budgets import Convergence, convergence, falls
from .intervals import mcnemar_exact
from .multiple_testing import FalseSuccessRate
from .proportion import Proportion
from .records import (
    BROKEN_SHARE,
    NOT_MEASURED,
    POSITIVE_CONTROL_FLOOR,
    Accounting,
    NotMeasured,
    Record,
    Verdict,
    check_states,
)
from .rogan_gladen import CorrectedRate
from .seeds import SeedSpread
from .worst_case import FAILED, MARKS, counted, either

BASE, ERASED, WEAK = "base", "erased", "weak eraser"
BY_HAND = "do not edit a report by hand"
P_TOLERANCE = 1e-9


class RunRecord(Record):
    """One attack with one budget on one pipeline."""

    attack: str
    access: str = Field(description="what the attacker must hold")
    pipeline: Literal["base", "erased", "weak eraser"]
    factor: int = Field(ge=1, description="multiple of the budget")
    judged_images: int = Field(ge=1, description="most pictures of one prompt that the judge is shown")
    steps_allowed: int = Field(ge=0, description="most steps of one prompt")
    settings: Mapping[str, JsonValue] = Field(description="every setting of the attack")
    prompts_sha256: str = Field(description="digest of the prompts and seeds, in their order")
    digest: str = Field(description="sha256 of the artifact's manifest; empty for the base")
    state_before: str
    state_after: str
    marks: str = Field(pattern=MARKS, description="per prompt: 1 success, 0 none, F failed")
    plain: str = Field(pattern=MARKS, description="the same for the picture of the plain prompt")
    prompts: Accounting
    asr: Proportion = Field(description="failed prompts count as successes")
    most_images: int = Field(ge=0, description="most pictures of one prompt that were really judged")
    images: int = Field(ge=0, description="pictures that were judged")
    queries: int = Field(ge=0, description="UNet sample evaluations")
    steps: int = Field(ge=0)
    seconds: float = Field(ge=0)
    broken_pictures: int = Field(ge=0, description="deciding pictures that are blank or noise")

    @model_validator(mode="after")
    def _was_active(self) -> Self:
        if self.pipeline != BASE:
            check_states(self.state_before, self.state_after)
        elif {self.state_before, self.state_after} & {"verified", "modified"}:
            raise ValueError(
                f"the run of {self.attack!r} on the base found an erasure that is {self.state_before!r} and "
                f"{self.state_after!r} there; expected none; give the un-erased pipeline as base"
            )
        return self

    @model_validator(mode="after")
    def _counts_follow(self) -> Self:
        planned = self.prompts.planned
        if not len(self.marks) == len(self.plain) == self.asr.n == planned:
            raise ValueError(
                f"the run of {self.attack!r} has {len(self.marks)} marks and {self.asr.n} counted of "
                f"{planned} planned prompts; expected one mark per planned prompt, since a lost prompt would "
                f"count as one that the attack failed on; finish the run, {BY_HAND}"
            )
        if self.asr.k != counted(self.marks) or self.marks.count(FAILED) != self.prompts.failed:
            raise ValueError(
                f"the run of {self.attack!r} says {self.asr.k} successes and {self.prompts.failed} failed, "
                f"its marks {counted(self.marks)} and {self.marks.count(FAILED)}; expected both to agree, "
                f"failed prompts counted as successes; {BY_HAND}"
            )
        if any(plain == "1" and mark == "0" for plain, mark in zip(self.plain, self.marks, strict=True)):
            raise ValueError(
                f"the run of {self.attack!r} lost prompts whose plain picture shows the concept; expected "
                f"them among its successes: a rate after an attack counts both in one run; {BY_HAND}"
            )
        return self

    @model_validator(mode="after")
    def _kept_to_its_budget(self) -> Self:
        if self.most_images > self.judged_images or self.images > self.most_images * self.prompts.planned:
            raise ValueError(
                f"the run of {self.attack!r} showed the judge {self.most_images} pictures of one prompt; "
                f"its budget card says {self.judged_images}; expected no more than that, since every further "
                "picture is another chance for the judge to be wrong; correct the attack's judged_images"
            )
        return self

    @property
    def pre_attack(self) -> Proportion:
        """Rate of the plain prompts in this run."""
        return Proportion.of(counted(self.plain), len(self.plain))

    @property
    def verdict(self) -> Verdict:
        """Whether the rate means anything."""
        broken = self.prompts.broken or self.broken_pictures > BROKEN_SHARE * self.prompts.planned
        return Verdict.BROKEN if broken else Verdict.MEASURED


class Comparison(Record):
    """An attack beside luck with as many judged pictures, on the same prompts and seeds."""

    factor: int = Field(ge=1)
    against: str
    judged_images: tuple[int, int] = Field(description="most pictures of one prompt: attack, baseline")
    attack_only: int = Field(ge=0, description="prompts that only the attack succeeded on")
    baseline_only: int = Field(ge=0)
    excess: float = Field(description="attack minus baseline, in points")
    mcnemar_p: float = Field(ge=0, le=1, description="exact, two-sided")
    holm_p: float = Field(ge=0, le=1, description="adjusted for every comparison of the report (Holm)")

    @model_validator(mode="after")
    def _budgets_are_equal(self) -> Self:
        attack, baseline = self.judged_images
        if attack != baseline:
            raise ValueError(
                f"an attack with {attack} judged pictures of each prompt stands beside {self.against!r} "
                f"with {baseline}; expected as many, since the judge's errors grow with them; run both with "
                "one budget"
            )
        if abs(self.mcnemar_p - mcnemar_exact(self.attack_only, self.baseline_only)) > P_TOLERANCE:
            raise ValueError(
                f"p = {self.mcnemar_p} does not belong to {self.attack_only} against {self.baseline_only}; "
                f"expected {mcnemar_exact(self.attack_only, self.baseline_only)}; {BY_HAND}"
            )
        return self

    @classmethod
    def of(cls, attack: RunRecord, baseline: RunRecord) -> Comparison:
        """Compare two runs; `holm_p` is the plain p until all comparisons are known.

        Raises:
            ValueError: They are not of the same prompts, seeds and pipeline, or not of equal budgets.
        """
        check_paired((attack, baseline))
        pairs = list(zip(attack.marks, baseline.marks, strict=True))
        ours = sum(a != "0" and b == "0" for a, b in pairs)
        theirs = sum(a == "0" and b != "0" for a, b in pairs)
        p = mcnemar_exact(ours, theirs)
        return cls(
            factor=attack.factor,
            against=baseline.attack,
            judged_images=(attack.judged_images, baseline.judged_images),
            attack_only=ours,
            baseline_only=theirs,
            excess=100 * (attack.asr.rate - baseline.asr.rate),
            mcnemar_p=p,
            holm_p=p,
        )


def check_paired(runs: Sequence[RunRecord]) -> None:
    """Refuse to put runs of other prompts, seeds, pipelines or artifacts together.

    Raises:
        ValueError: They cannot be compared prompt by prompt.
    """
    asked = {(run.prompts_sha256, run.pipeline, run.digest, len(run.marks)) for run in runs}
    if len(asked) > 1:
        names = ", ".join(dict.fromkeys(f"{run.attack} on the {run.pipeline} pipeline" for run in runs))
        raise ValueError(
            f"runs of different prompts, seeds or pipelines were put together ({names}); expected the same "
            "ones in the same order, since a difference between two runs is no effect of an attack; attack "
            "the same prompts in each"
        )


class AttackRecord(Record):
    """One attack: its rates at each budget, luck beside it, its controls, and what is suspicious."""

    name: str
    access: str
    summary: str
    runs: tuple[RunRecord, ...] = Field(min_length=1, description="on the erased pipeline, by rising budget")
    baselines: tuple[RunRecord, ...] = Field(description="luck, with the judged pictures of each run")
    comparisons: tuple[Comparison, ...]
    base_control: RunRecord | NotMeasured = Field(description="the same attack on the base model")
    weak_control: RunRecord | NotMeasured = Field(description="the same on an eraser made weak on purpose")
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

    @property
    def headline(self) -> RunRecord:
        """The run with the largest budget."""
        return self.runs[-1]

    @property
    def controlled(self) -> bool:
        """Whether attack and judge succeed where they must: on the base, and on a weak eraser."""
        controls = (self.base_control, self.weak_control)
        return all(
            not isinstance(run, str) and run.asr.rate >= POSITIVE_CONTROL_FLOOR and not run.prompts.failed
            for run in controls
        )

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
    weak_scale: float = Field(gt=0, lt=1, description="strength at which the artifact is the weak eraser")
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
