"""Results of earlier runs whose folders are gone or lie on another machine: what `benchmark.json` holds.

A cell takes a small machine many minutes; its weights and pictures are seldom kept as long as its figures.
Given to a run, what the file holds is not measured again, and the page shows it beside what the folder holds.
Measurements are joined only if they are of the same weights, byte for byte. Two kinds of processor seldom
train the same bytes from one seed, so what is missing of a cell is best measured where it was begun.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from diffusers_erasure.errors import ConfigError
from diffusers_erasure.evaluation.worst_case import FAILED

from .cells import EVALUATE, Cell, Known
from .freshness import SettingsOf, other_settings
from .stored import CellRecord, read_stored

Key = tuple[str, str, int]
"""Variant, concept and training seed."""


@dataclass(frozen=True)
class Earlier:
    """What earlier runs measured.

    Attributes:
        records: Each cell's, with the file that it is from.
    """

    records: Mapping[Key, tuple[CellRecord, Path]]

    def known_to(self, cells: Iterable[Cell], settings_of: SettingsOf) -> list[Cell]:
        """The cells, told what of them need not be run.

        Args:
            cells: Those of a profile.
            settings_of: The settings that a cell's command comes to.

        Raises:
            ConfigError: Records are of trainings with other settings, or do not say with which.
        """
        told = [(cell, self.records.get(_key(cell))) for cell in cells]
        stale = [
            f"{cell} in {found[1]} ({other})"
            for cell, found in told
            if found is not None and (other := _otherwise(cell, found[0], settings_of))
        ]
        if stale:
            raise ConfigError(
                f"{len(stale)} of the records are of other trainings than their variants stand for now: "
                f"{'; '.join(stale)}; expected the same settings, since figures of another training would be "
                "told as these; delete these lines of the file and run the benchmark again"
            )
        return [cell if found is None else _with(cell, found[0]) for cell, found in told]

    def beside(self, cell: Cell, here: CellRecord | None) -> CellRecord | None:
        """What there is of a cell in all.

        Args:
            cell: Which one.
            here: What its folder holds; None if nothing.
        """
        found = self.records.get(_key(cell))
        return here if found is None else found[0] if here is None else joined(here, found[0])


NOTHING = Earlier({})


def read_earlier(files: Sequence[Path], prompts: int) -> Earlier:
    """Read what earlier runs measured.

    Args:
        files: `benchmark.json` of each, in order of preference where both hold a cell.
        prompts: Of each prompt set, as they must have.

    Raises:
        ConfigError: One is of another number of prompts.
        EvaluationError: One is no such file.
    """
    records: dict[Key, tuple[CellRecord, Path]] = {}
    for file in files:
        stored = read_stored(file)
        if stored.prompts != prompts:
            raise ConfigError(
                f"{file} holds cells of {stored.prompts} prompts; expected {prompts}, since pictures of "
                "other prompts cannot be compared one by one; give the file of a profile with as many"
            )
        for record in stored.cells:
            key = record.variant, *record.slot
            before = records.get(key)
            records[key] = (record, file) if before is None else (joined(before[0], record), before[1])
    return Earlier(records)


def joined(first: CellRecord, second: CellRecord) -> CellRecord:
    """Two records of a cell as one.

    Of the same weights, all that both hold. Otherwise the first, unless the second holds all of its steps and
    more.
    """
    if not first.weights or first.weights != second.weights:
        return second if measured(second) > measured(first) else first
    missing = {
        name: getattr(second, name) for name in CellRecord.model_fields if getattr(first, name) in (None, ())
    }
    whole = {name: first.attacks[name] for name in first.attacks if name in measured(first)}
    return first.model_copy(update={**missing, "attacks": {**first.attacks, **second.attacks, **whole}})


def measured(record: CellRecord) -> frozenset[str]:
    """The steps of a cell that a record holds whole; an attack with failed prompts is none."""
    attacks = {name for name, one in record.attacks.items() if FAILED not in one.marks}
    return frozenset(attacks | {EVALUATE} if record.verdict is not None else attacks)


def _otherwise(cell: Cell, record: CellRecord, settings_of: SettingsOf) -> str:
    if not record.settings:
        return "it does not say with which settings"
    return other_settings(cell, record.settings, settings_of)


def _with(cell: Cell, record: CellRecord) -> Cell:
    return replace(cell, known=Known(record.weights, measured(record)))


def _key(cell: Cell) -> Key:
    return cell.variant.slug, cell.concept, cell.seed
