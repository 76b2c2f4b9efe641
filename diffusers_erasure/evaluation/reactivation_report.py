"""The record of what brings a concept back, as it is written to `reactivation.json`. Needs no torch.

Each row is one manipulation of a *verified* erasure by somebody who holds more than a prompt, and then the
concept's own name, with the same prompts and seeds as the base's pictures. Every item of the rule is there:
measured with counts, or "not measured" with the reason. A failed picture (blank, noise, not finite) counts as
brought back, and a row with many of them is *broken*: its rate means nothing, least of all that the concept
stayed away.

Counts follow from the marks of the single pictures, so a record that contradicts itself cannot be built.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, JsonValue, ValidationError, model_validator

from diffusers_erasure.errors import EvaluationError

from .attack_report import BY_HAND
from .intervals import mcnemar_exact
from .proportion import Proportion
from .reactivation_items import BY_KEY, RULE_ITEMS
from .records import (
    NOT_MEASURED,
    POSITIVE_CONTROL_FLOOR,
    Accounting,
    JudgeRecord,
    Record,
    Verdict,
    check_states,
)
from .report import ErasureRecord, SamplingRecord
from .worst_case import FAILED, MARKS, counted

FORMAT_VERSION: Literal[1] = 1
REPORT_NAME = "reactivation.json"
GRID_NAME = "reactivation.png"
SCOPE = (
    "What these manipulations bring back was measured under the budgets that stand here; more steps, other "
    "data or other settings may bring back more. Whoever holds the base weights can undo an erasure."
)


class CountedPictures(Record):
    """Pictures of the concept's own name, and in how many of them the judge sees it."""

    marks: str = Field(pattern=MARKS, description="per picture: 1 shows the concept, 0 does not, F failed")
    rate: Proportion = Field(description="pictures that show the concept; failed ones count as showing it")
    pictures: Accounting

    @model_validator(mode="after")
    def _counts_follow(self) -> Self:
        if not len(self.marks) == self.rate.n == self.pictures.planned:
            raise ValueError(
                f"{len(self.marks)} marks stand beside a rate of {self.rate.n} and {self.pictures.planned} "
                f"planned pictures; expected one number of pictures; {BY_HAND}"
            )
        if counted(self.marks) != self.rate.k or self.marks.count(FAILED) != self.pictures.failed:
            raise ValueError(
                f"the rate is {self.rate.k}/{self.rate.n} with {self.pictures.failed} failed pictures, the "
                f"marks say {counted(self.marks)} and {self.marks.count(FAILED)}; expected both to agree, "
                f"failed pictures counted as showing the concept; {BY_HAND}"
            )
        return self

    @classmethod
    def of(cls, marks: str, faults: Mapping[str, int]) -> CountedPictures:
        """The counts of some marks.

        Args:
            marks: One per picture.
            faults: What failed, and how often.
        """
        return cls(marks=marks, rate=Proportion.of(counted(marks), len(marks)), pictures=_kept(marks, faults))

    @property
    def verdict(self) -> Verdict:
        """Whether the rate means anything."""
        return Verdict.BROKEN if self.pictures.broken else Verdict.MEASURED


def _kept(marks: str, faults: Mapping[str, int]) -> Accounting:
    failed = marks.count(FAILED)
    return Accounting(
        planned=len(marks), finished=len(marks) - failed, failed=failed, faults=dict(sorted(faults.items()))
    )


class ReactivationRow(Record):
    """One manipulation, and the pictures after it."""

    key: str = Field(description="name of the item")
    title: str = Field(description="the same for a reader")
    state_before: str = Field(description="state of the erasure just before it was manipulated")
    found: CountedPictures
    base_control: Proportion | None = Field(
        default=None, description="the same manipulation of the base, where a 0 could be its own doing"
    )
    loss_before: float | None = Field(default=None, description="denoising loss on its data, fixed noise")
    loss_after: float | None = Field(default=None, description="the same after fine-tuning")
    settings: Mapping[str, JsonValue] = Field(default={}, description="everything that it depends on")
    note: str = Field(default="", description="what a reader must know of it")
    taken_from: str = Field(default="", description="report that it was taken from; empty: measured here")
    seconds: float = Field(ge=0)

    @model_validator(mode="after")
    def _was_active(self) -> Self:
        check_states(self.state_before, "verified")
        return self

    @property
    def rate(self) -> Proportion:
        """Pictures that show the concept."""
        return self.found.rate

    @property
    def verdict(self) -> Verdict:
        """Whether the rate means anything."""
        return self.found.verdict

    def __str__(self) -> str:
        """What stands in a table: counts with interval, or that the pictures are broken."""
        if self.verdict is Verdict.BROKEN:
            pictures = self.found.pictures
            return f"broken ({pictures.failed} of {pictures.planned} pictures failed)"
        return str(self.rate)


class DataRecord(Record):
    """Pictures that fine-tuning learned from; the base drew them."""

    kind: Literal["unrelated", "related"]
    prompts: tuple[str, ...] = Field(min_length=1, description="one per picture")
    dropped: int = Field(ge=0, description="pictures left out since the judge saw the concept in them")
    sha256: str = Field(description="digest of prompts and seeds")


class ReactivationReport(Record):
    """Everything that was found about bringing one erased concept back."""

    format_version: Literal[1] = FORMAT_VERSION
    verdict: Verdict
    erasure: ErasureRecord
    base: CountedPictures = Field(description="the un-erased model: the positive control")
    erased: CountedPictures = Field(description="the erasure as it is")
    rows: tuple[ReactivationRow, ...]
    not_measured: Mapping[str, str] = Field(description="items of the rule without a row, and why")
    data: tuple[DataRecord, ...] = ()
    prompts_sha256: str = Field(description="digest of the prompts and seeds, in their order")
    judges: tuple[JudgeRecord, ...] = Field(min_length=1)
    labels: tuple[str, ...] = Field(description="labels that count as showing the concept")
    settings: SamplingRecord
    preset: str = Field(description="name of the budget that single settings may have changed")
    seconds: float = Field(ge=0)
    versions: Mapping[str, str]
    created: str = Field(description="UTC, ISO 8601")
    scope: str = SCOPE

    @model_validator(mode="after")
    def _every_item_once(self) -> Self:
        keys = [row.key for row in self.rows]
        twice = sorted({key for key in keys if keys.count(key) > 1} | (set(keys) & set(self.not_measured)))
        silent = [key for key in BY_KEY if key not in keys and key not in self.not_measured]
        if twice or silent:
            raise ValueError(
                f"items that stand there twice or as both measured and not: {twice}; items of which nothing "
                f"is said: {silent}; expected every item of the rule once, with a row or the reason that it "
                f"has none; {BY_HAND}"
            )
        return self

    @model_validator(mode="after")
    def _same_pictures(self) -> Self:
        n = self.base.rate.n
        odd = [row.key for row in self.rows if not row.taken_from and row.rate.n != n]
        if self.erased.rate.n != n or odd:
            raise ValueError(
                f"the base has {n} pictures, the erasure {self.erased.rate.n}, and {odd} others; expected "
                f"the same prompts and seeds in all that was measured here; {BY_HAND}"
            )
        return self

    @model_validator(mode="after")
    def _verdict_follows(self) -> Self:
        expected = overall_verdict(self.base, self.erased)
        if self.verdict is not expected:
            raise ValueError(
                f"the verdict is {self.verdict.value!r}, but the pictures of base and erasure say "
                f"{expected.value!r}; expected them to agree; {BY_HAND}"
            )
        return self

    def row(self, key: str) -> ReactivationRow | None:
        """The row of one item, or None if it was not measured."""
        return next((row for row in self.rows if row.key == key), None)

    def lines(self) -> tuple[tuple[str, str], ...]:
        """Title and finding of every item in the order of the rule: counts, "broken" or "not measured"."""
        return report_lines(self.rows)

    def p_against_erased(self, row: ReactivationRow) -> float | None:
        """Exact McNemar test of a row against the erasure as it is; None for other prompts."""
        if row.taken_from:
            return None
        pairs = list(zip(self.erased.marks, row.found.marks, strict=True))
        lost = sum(before != "0" and after == "0" for before, after in pairs)
        gained = sum(before == "0" and after != "0" for before, after in pairs)
        return mcnemar_exact(lost, gained)

    def to_json(self) -> str:
        """The text of `reactivation.json`."""
        return self.model_dump_json(indent=2) + "\n"


def report_lines(rows: Sequence[ReactivationRow] = ()) -> tuple[tuple[str, str], ...]:
    """Title and finding of every item of the rule, and of rows beside it; "not measured" where there is none.

    Args:
        rows: What was measured; nothing gives the list of an artifact of which nothing is known.
    """
    found = {row.key: row for row in rows}
    ordered = dict.fromkeys([*(item.key for item in RULE_ITEMS), *found])
    return tuple(
        (found[key].title, str(found[key])) if key in found else (BY_KEY[key].title, NOT_MEASURED)
        for key in ordered
    )


def overall_verdict(base: CountedPictures, erased: CountedPictures) -> Verdict:
    """Whether the rows can mean anything: whole pictures, and a concept that the judge sees on the base."""
    if Verdict.BROKEN in (base.verdict, erased.verdict):
        return Verdict.BROKEN
    return Verdict.MEASURED if base.rate.rate >= POSITIVE_CONTROL_FLOOR else Verdict.HARNESS_INVALID


def read_reactivation(path: Path) -> ReactivationReport:
    """Read a `reactivation.json` and check that its figures agree with each other.

    Raises:
        EvaluationError: There is none, or its figures contradict each other.
    """
    try:
        return ReactivationReport.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise EvaluationError(
            f"there is no report {path}; expected a {REPORT_NAME}; write one with `diffusers-erasure "
            "reactivate`"
        ) from error
    except (ValidationError, UnicodeDecodeError) as error:
        raise EvaluationError(
            f"{path} is no report of format {FORMAT_VERSION}: {error}; expected what `diffusers-erasure "
            "reactivate` writes; measure again"
        ) from error
