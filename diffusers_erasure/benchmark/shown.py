"""Rows of a table or picture, and over which trainings its columns compare them.

Concepts differ far more than methods do, so rates that are pooled over different concepts or training seeds
cannot be set side by side. Each column is therefore pooled over the trainings that every row has that has any
figure in it, and the page says which these are. Where rows have no training in common, each keeps its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .figures import NOT_ERASED, Figures, Group
from .profiles import ATTACKS
from .slots import Slot
from .stored import CellRecord
from .variants import Variant

ALL = "all planned trainings"
MARK = "†"
"""Beside a variant with a training that did not erase."""
Has = Callable[[CellRecord], bool]
"""Whether a training has a figure of a column."""


@dataclass(frozen=True)
class Row:
    """A variant.

    Attributes:
        label: Its name, marked if the concept is still there.
        group: All its trainings.
    """

    label: str
    group: Group

    @property
    def head(self) -> str:
        """What stands at the beginning of the row."""
        return f"{self.label} {MARK}" if NOT_ERASED in self.group.faults else self.label


@dataclass(frozen=True)
class Column:
    """What the rows have of one figure.

    Attributes:
        groups: By label, over the trainings that are compared.
        slots: Which these are; empty if nothing was measured, or nothing in common.
        unlike: Whether the rows have nothing in common, so that each is over its own.
    """

    groups: Mapping[str, Group]
    slots: tuple[Slot, ...]
    unlike: bool


@dataclass(frozen=True)
class Shown:
    """Rows of a table: variants over the same concepts.

    Attributes:
        figures: All cells.
        variants: In order.
        concepts: Pooled.
        attacks: What was planned for them.
    """

    figures: Figures
    variants: tuple[Variant, ...]
    concepts: tuple[str, ...]
    attacks: tuple[str, ...] = ATTACKS

    def rows(self) -> list[Row]:
        """Each variant that has any training."""
        found = [Row(one.label, self.figures.group(one.slug, self.concepts)) for one in self.variants]
        return [row for row in found if row.group.cells]

    def of(self, *attacks: str) -> tuple[str, ...]:
        """Those of some attacks that were planned."""
        return tuple(one for one in attacks if one in self.attacks)

    def column(self, has: Has) -> Column:
        """The rows over the trainings that all of them have."""
        rows = self.rows()
        having = {row.label: {cell.slot for cell in row.group.cells if has(cell)} for row in rows}
        met = [slots for slots in having.values() if slots]
        common = set.intersection(*met) if met else set()
        groups = {row.label: row.group.only(common or having[row.label]) for row in rows}
        order = tuple((concept, seed) for concept in self.concepts for seed in self.figures.seeds)
        return Column(groups, tuple(slot for slot in order if slot in common), bool(met and not common))

    def over(self, columns: Mapping[str, Column]) -> str:
        """Over which trainings columns compare the rows, in words."""
        alike: dict[str, list[str]] = {}
        for name, column in columns.items():
            if column.slots or column.unlike:
                alike.setdefault(self._over(column), []).append(name)
        if len(alike) < 2:
            return next(iter(alike), ALL)
        return "; ".join(f"{', '.join(names)}: {words}" for words, names in alike.items())

    def _over(self, column: Column) -> str:
        if column.unlike:
            return "what each row has, since no training is common to all rows; look at *trainings* first"
        if len(column.slots) == len(self.concepts) * len(self.figures.seeds):
            return ALL
        seeds = {one: [seed for concept, seed in column.slots if concept == one] for one in self.concepts}
        said = [f"{one} ({', '.join(map(str, found))})" for one, found in seeds.items() if found]
        return f"the trainings (seeds) that every row has: {', '.join(said)}"
