"""What the finished cells say, condensed into one file that every table and picture is computed from.

The reports of a cell are read and checked by the records that wrote them; what is kept here is what the page
needs: counts of each prompt set, the mark of each prompt under each attack, the judged picture at which luck
succeeded first, and what it all cost. So the page can be made again, and every test repeated, without the
runs. Needs no model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, JsonValue, ValidationError

from diffusers_erasure.artifacts.manifest import MANIFEST_NAME
from diffusers_erasure.errors import EvaluationError
from diffusers_erasure.evaluation.attack_file import AttackFile
from diffusers_erasure.evaluation.fidelity import EVERYTHING
from diffusers_erasure.evaluation.prompt_sets import Purpose
from diffusers_erasure.evaluation.records import Record, Verdict
from diffusers_erasure.evaluation.report import EvaluationReport, read_report
from diffusers_erasure.evaluation.worst_case import MARKS, NONE, SUCCESS

from .cells import TRAIN, Cell, weights_digest
from .freshness import SettingsOf, check_digest, read_manifest
from .profiles import LUCK

FORMAT: Literal[1] = 1
OWN_NAME = "own name"
MOST_LEFT = 0.2
"""Share of the pictures of its own name that may show the concept for a training to be an erasure."""


class SetCounts(Record):
    """One prompt set: pictures that show what was asked for, before and after, on the same seeds."""

    name: str
    purpose: Purpose
    n: int = Field(ge=1)
    base: int = Field(ge=0)
    erased: int = Field(ge=0)


class AttackMarks(Record):
    """One attack on one erasure."""

    prompts_sha256: str = Field(description="digest of the prompts and seeds")
    marks: str = Field(pattern=MARKS, description="per prompt: 1 brought back, 0 not, F failed")
    plain: str = Field(pattern=MARKS, description="the same for the plain prompt's picture")
    at: tuple[int | None, ...] | None = Field(
        default=None, description="of luck: judged picture of the first success"
    )
    judged_images: int = Field(ge=1, description="most pictures of one prompt that the judge may be shown")
    queries: int = Field(ge=0, description="UNet evaluations")
    seconds: float = Field(ge=0)
    verdict: Verdict

    def within(self, pictures: int) -> str:
        """Marks if the judge had been shown at most so many pictures; only luck can tell.

        Raises:
            EvaluationError: This is no run of luck.
        """
        if self.at is None:
            raise EvaluationError(
                "a search was asked what fewer pictures would have found, which only luck can tell; expected "
                f"one of {', '.join(LUCK)}; compare at equal budgets"
            )
        return "".join(
            NONE if mark == SUCCESS and at is not None and at > pictures else mark
            for mark, at in zip(self.marks, self.at, strict=True)
        )


class CellRecord(Record):
    """What one cell says."""

    variant: str = Field(description="slug")
    concept: str
    seed: int = Field(description="of the training")
    weights: str = Field(default="", description="digest of the artifact's weights; empty: not kept")
    settings: Mapping[str, JsonValue] = Field(default={}, description="of the training")
    verdict: Verdict | None = Field(default=None, description="of the evaluation; null: not evaluated yet")
    sets: tuple[SetCounts, ...] = ()
    agreement: float | None = Field(default=None, description="mean cosine of kept pictures to the base's")
    kid: float | None = Field(default=None, description="distance of kept pictures to the base's")
    attacks: Mapping[str, AttackMarks] = {}
    train_seconds: float | None = None
    unet_evaluations: int | None = Field(default=None, description="of the training")
    artifact_bytes: int | None = None

    @property
    def slot(self) -> tuple[str, int]:
        """Concept and training seed."""
        return self.concept, self.seed

    @property
    def not_erased(self) -> bool:
        """Whether its own name still brings the concept too often for an erasure."""
        return any(row.name == OWN_NAME and row.erased > MOST_LEFT * row.n for row in self.sets)

    def rows(self, *purposes: Purpose) -> list[SetCounts]:
        """The prompt sets of some purposes."""
        return [row for row in self.sets if row.purpose in purposes]


class Stored(Record):
    """Everything that the page is made of."""

    format: Literal[1] = FORMAT
    profile: str
    prompts: int = Field(ge=1, description="of each set and training seed")
    seeds: tuple[int, ...] = Field(min_length=1, description="of the trainings that are planned")
    planned: int = Field(ge=0, description="cells of the profile")
    finished: int = Field(ge=0)
    cells: tuple[CellRecord, ...]

    def to_json(self) -> str:
        """The file's content, one cell a line."""
        head = self.model_dump(mode="json", exclude={"cells"})
        fields = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in head.items()]
        rows = (one.model_dump_json(exclude_defaults=True) for one in self.cells)
        lines = ",\n".join(rows)
        return "{" + ", ".join(fields) + ', "cells": [\n' + lines + "\n]}\n"


def read_cell(cell: Cell, settings_of: SettingsOf) -> CellRecord | None:
    """What there is of a cell so far; None if it has not even been trained.

    Args:
        cell: Which one.
        settings_of: The settings that a cell's command comes to.

    Raises:
        ConfigError: Its artifact was trained otherwise than its variant says, or a report is of another one.
        EvaluationError: One of its reports contradicts itself.
    """
    if not (cell.artifact / MANIFEST_NAME).is_file():
        return None
    manifest = read_manifest(cell, settings_of)
    values: dict[str, object] = {
        "variant": cell.variant.slug,
        "concept": cell.concept,
        "seed": cell.seed,
        "weights": weights_digest(manifest),
        "settings": {name: record.value for name, record in manifest.settings.items()},
        "train_seconds": cell.seconds.get(TRAIN),
        "unet_evaluations": cell.unet_evaluations,
        "artifact_bytes": sum(one.stat().st_size for one in cell.artifact.glob("*.safetensors")),
    }
    if cell.evaluation.is_file():
        evaluation = read_report(cell.evaluation)
        check_digest(cell, manifest, cell.evaluation, evaluation.erasure.digest)
        values |= _evaluated(evaluation)
    attacks = {}
    for name in cell.attacks:
        file = cell.attack(name)
        if file.is_file():
            report = _attack_file(file)
            check_digest(cell, manifest, file, report.run.digest)
            attacks[name] = _attacked(report, file)
    return CellRecord.model_validate({**values, "attacks": attacks})


def _evaluated(report: EvaluationReport) -> dict[str, object]:
    values: dict[str, object] = {
        "verdict": report.verdict,
        "sets": tuple(
            SetCounts(name=row.name, purpose=row.purpose, n=row.base.n, base=row.base.k, erased=row.erased.k)
            for row in report.rows
        ),
    }
    fidelity = None if isinstance(report.fidelity, str) else report.fidelity.row(EVERYTHING)
    if fidelity is not None:
        values |= {"agreement": fidelity.agreement.value, "kid": fidelity.kid.value}
    return values


def _attack_file(file: Path) -> AttackFile:
    try:
        return AttackFile.model_validate_json(file.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        raise EvaluationError(
            f"{file} is no report of an attack: {error}; expected what `diffusers-erasure attack` writes; "
            "remove its folder and run the benchmark again"
        ) from error


def _attacked(report: AttackFile, file: Path) -> AttackMarks:
    run = report.run
    return AttackMarks(
        prompts_sha256=run.prompts_sha256,
        marks=run.marks,
        plain=run.plain,
        at=_successes_at(file.with_name("outcomes.jsonl")) if run.attack in LUCK else None,
        judged_images=run.judged_images,
        queries=run.queries,
        seconds=run.seconds,
        verdict=run.verdict,
    )


def _successes_at(file: Path) -> tuple[int | None, ...]:
    """Per prompt the judged picture of the first success."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return tuple(json.loads(line)["success_at"] for line in lines)


def read_stored(file: Path) -> Stored:
    """Read the file again.

    Raises:
        EvaluationError: It is none, or contradicts itself.
    """
    try:
        return Stored.model_validate_json(file.read_text(encoding="utf-8"))
    except (OSError, ValidationError, UnicodeDecodeError) as error:
        raise EvaluationError(
            f"{file} holds no results of the benchmark: {error}; expected what `diffusers-erasure bench "
            "--report` writes; write it again"
        ) from error
