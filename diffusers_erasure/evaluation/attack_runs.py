"""The runs that a report of attacks is made of. Needs no torch.

    RunRecord    one attack with one budget on one pipeline: which prompts it brought the concept back for
    Comparison   an attack beside luck with as many judged pictures

A run keeps one mark per prompt in the order in which they were planned: `1` success, `0` none, `F` failed.
All its counts must follow from these marks, failed ones counted as successes, and only runs over the very
same prompts and seeds are compared. So a lost prompt, a rate that was put together from two runs, or an
attack that showed the judge more pictures than it said cannot become a report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Self

from pydantic import Field, JsonValue, model_validator

from .intervals import mcnemar_exact
from .proportion import Proportion
from .records import BROKEN_SHARE, Accounting, Record, Verdict, check_states
from .worst_case import FAILED, MARKS, counted

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
