"""What every part of a report is made of: verdicts, accounting, judges. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from diffusers_erasure.errors import ErasureError, EvaluationError

NOT_MEASURED: Literal["not measured"] = "not measured"
NotMeasured = Literal["not measured"]
"""A value like any other: what was not measured is never left blank and never zero."""
VERIFIED = "verified"
POSITIVE_CONTROL_FLOOR = 0.95
"""Share of the base model's pictures in which the judge must see the concept."""
RETENTION_MARGIN = 0.03
"""Loss of rate, three points, within which something else still counts as kept."""
BROKEN_SHARE = 0.05
"""Share of failed pictures above which a row is broken."""


class Record(BaseModel):
    """Base of every part of a report: nothing may be added, nothing changed."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Verdict(StrEnum):
    """How far the figures of a row or a report may be believed."""

    MEASURED = "measured"
    DEGENERATE = "degenerate"
    BROKEN = "broken"
    HARNESS_INVALID = "harness invalid"


class JudgeRecord(Record):
    """Which judge answered, with the threshold that was fixed beforehand."""

    name: str
    version: str
    sha256: str
    threshold: float


class Accounting(Record):
    """Complete runs only: planned = finished + failed."""

    planned: int = Field(ge=1)
    finished: int = Field(ge=0)
    failed: int = Field(ge=0)
    faults: Mapping[str, int] = Field(default={}, description="what failed, and how often")

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if self.planned != self.finished + self.failed or self.failed != sum(self.faults.values()):
            raise ValueError(
                f"planned {self.planned}, finished {self.finished}, failed {self.failed} with faults "
                f"{dict(self.faults)} do not add up; expected planned = finished + failed; finish the run"
            )
        return self

    @property
    def broken(self) -> bool:
        """Whether too many pictures failed for the row to mean anything."""
        return self.failed > BROKEN_SHARE * self.planned


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """Turn a record that cannot be built into an error of ours.

    Args:
        what: What could not be recorded.

    Raises:
        EvaluationError: The figures contradict each other.
    """
    try:
        yield
    except ValidationError as error:
        faults = "; ".join(str(fault["msg"]).removeprefix("Value error, ") for fault in error.errors())
        raise EvaluationError(f"{what} cannot become a report: {faults}") from error
    except ErasureError:
        raise
    except ValueError as error:
        raise EvaluationError(f"{what} cannot become a report: {error}") from error


def check_states(before: str, after: str) -> None:
    """Refuse figures of anything but an erasure that was verified all along.

    Raises:
        ValueError: It was not; a record with such states cannot be built.
    """
    for when, state in (("before", before), ("after", after)):
        if state != VERIFIED:
            raise ValueError(
                f"the erasure was {state!r} {when} the measurement; expected {VERIFIED!r}, or the "
                "figures would be of another model; load the artifact again and measure again"
            )
