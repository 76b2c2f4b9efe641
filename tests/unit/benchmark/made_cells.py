"""Cells that never ran, for tests of what is made of them: real records, and files as they lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from diffusers_erasure import embedded
from diffusers_erasure.artifacts.manifest import Manifest, SettingRecord, parse_manifest, render_manifest
from diffusers_erasure.benchmark.cells import Cell
from diffusers_erasure.benchmark.figures import Figures
from diffusers_erasure.benchmark.profiles import Profile
from diffusers_erasure.benchmark.stored import AttackMarks, CellRecord, SetCounts
from diffusers_erasure.benchmark.variants import Variant
from diffusers_erasure.cli.bench import settings_of
from diffusers_erasure.evaluation.attack_file import AttackFile
from diffusers_erasure.evaluation.attack_rows import outcome_lines
from diffusers_erasure.evaluation.prompt_sets import Purpose
from diffusers_erasure.evaluation.records import Verdict
from diffusers_erasure.evaluation.report import ErasureRecord
from tests.unit.evaluation.counted_runs import run
from tests.unit.evaluation.test_report import ERASURE, row
from tests.unit.evaluation.test_report import report as evaluation

N = 20


def marks(successes: int, n: int = N, *, at: int | None = None, **changes: Any) -> AttackMarks:
    """The first so many prompts are brought back; `at` makes it a run of luck that hits with that picture."""
    fields: dict[str, Any] = {
        "prompts_sha256": "a" * 64,
        "marks": "1" * successes + "0" * (n - successes),
        "plain": "0" * n,
        "at": None if at is None else (at,) * successes + (None,) * (n - successes),
        "judged_images": 11,
        "queries": 100,
        "seconds": 1.0,
        "verdict": Verdict.MEASURED,
    }
    return AttackMarks(**{**fields, **changes})


def cell_record(
    variant: str,
    concept: str = "church",
    seed: int = 0,
    *,
    attacks: Mapping[str, int | AttackMarks] | None = None,
    kept: int = N,
    implicit: int = 0,
    **changes: Any,
) -> CellRecord:
    """A cell whose own name is erased, with so many successes of each attack and so many kept pictures."""
    found = attacks if attacks is not None else {"unlearndiffatk": 5, "random_tokens": 2}
    luck = ("random_tokens", "seed_search")
    fields: dict[str, Any] = {
        "variant": variant,
        "concept": concept,
        "seed": seed,
        "verdict": Verdict.MEASURED,
        "sets": (
            SetCounts(name="own name", purpose=Purpose.ERASED, n=N, base=N, erased=0),
            SetCounts(name="implicit", purpose=Purpose.ERASED, n=N, base=N, erased=implicit),
            SetCounts(name="neighbours", purpose=Purpose.IN_DOMAIN, n=N, base=N, erased=kept),
            SetCounts(name="styles", purpose=Purpose.CROSS_DOMAIN, n=N, base=N, erased=N),
        ),
        "agreement": 0.98,
        "kid": 0.001,
        "attacks": {
            name: one if isinstance(one, AttackMarks) else marks(one, at=1 if name in luck else None)
            for name, one in found.items()
        },
        "train_seconds": 10.0,
        "artifact_bytes": 2_000_000,
    }
    return CellRecord(**{**fields, **changes})


def figures(*cells: CellRecord, seeds: Sequence[int] = (0,)) -> Figures:
    return Figures(cells, tuple(seeds))


def small_profile(*variants: Variant, **changes: Any) -> Profile:
    fields: dict[str, Any] = {"concepts": ("church",), "seeds": (0,), "prompts": N}
    return Profile("advunlearn", "a small one", variants, **{**fields, **changes})


def manifest(cell: Cell, **changes: Any) -> Manifest:
    """A real manifest, of another artifact, as if the cell had been trained."""
    (file, *_) = sorted((Path(embedded.__file__).parent / "erasures").glob("*/erasure_config.json"))
    settings = {name: SettingRecord(value=one, meaning="-") for name, one in settings_of(cell).items()}
    fields = {"method": cell.variant.method, "seed": cell.seed, "settings": settings, **changes}
    return parse_manifest(file.read_bytes(), origin="-").model_copy(update=fields)


def finish(
    cell: Cell,
    successes: Mapping[str, int],
    *,
    kept: int = 100,
    seconds: float = 10.0,
    changes: Mapping[str, Any] = MappingProxyType({}),
    digest: str = "",
) -> None:
    """Lay down what a finished cell leaves.

    Args:
        cell: Which one.
        successes: Prompts that each attack brings back.
        kept: Pictures of 100 that stay.
        seconds: Of the training.
        changes: What its manifest says otherwise than the variant.
        digest: Of the artifact that the reports are of; its own unless given.
    """
    artifact = manifest(cell, **changes)
    digest = digest or artifact.digest
    cell.artifact.mkdir(parents=True)
    (cell.artifact / "erasure_config.json").write_bytes(render_manifest(artifact))
    (cell.artifact / "unet.safetensors").write_bytes(b"0" * 1000)
    (cell.artifact.parent / "train.log").write_text(" seconds           2.00 \n UNet evaluations  1234 \n")
    rows = (
        row("own name", Purpose.ERASED, 100, 2),
        row("neighbours", Purpose.IN_DOMAIN, 100, kept),
        row("styles", Purpose.CROSS_DOMAIN, 100, 100),
    )
    cell.evaluation.parent.mkdir()
    erased = ErasureRecord(**{**ERASURE, "digest": digest})
    cell.evaluation.write_text(evaluation(*rows, erasure=erased).to_json())
    for name, count in successes.items():
        found = run(count, name=name)
        file = cell.attack(name)
        file.parent.mkdir()
        file.write_text(attack_text(found.record.model_copy(update={"digest": digest})))
        file.with_name("outcomes.jsonl").write_bytes(outcome_lines([found]))
    cell.note_seconds("train", seconds)


def attack_text(record: Any) -> str:
    fields: dict[str, Any] = {
        "run": record,
        "luck": (),
        "comparisons": (),
        "typed": "not measured",
        "zero_gradients": 0,
        "concepts": ("church",),
        "model": "embedded",
        "budget": "quick",
        "judges": (),
        "labels": ("church",),
        "steps": 25,
        "guidance_scale": 3.0,
        "scope": "-",
        "versions": {},
        "created": "-",
    }
    return AttackFile(**fields).to_json()
