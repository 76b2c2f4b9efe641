"""Rows of a table or picture, and over which trainings its columns compare them.

Concepts differ far more than methods do, so rates that are pooled over different concepts or training seeds
cannot be set side by side. Each column is therefore pooled over the trainings that every row has that has any
figure in it, and the page says which these are. Where rows have no training in common, each keeps its own.

A row that has just begun would take nearly all trainings from the others. One with less than half of the
trainings of the row that has most therefore stands aside in that column, and the page names it.
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
        aside: Labels of rows that have begun, but have too few trainings to be compared; their groups are
            empty.
    """

    groups: Mapping[str, Group]
    slots: tuple[Slot, ...]
    unlike: bool
    aside: tuple[str, ...] = ()


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
        """The rows over the trainings that all of them have, of those that have enough to be compared."""
        rows = self.rows()
        having = {row.label: {cell.slot for cell in row.group.cells if has(cell)} for row in rows}
        most = max(map(len, having.values()), default=0)
        aside = tuple(label for label, slots in having.items() if 0 < 2 * len(slots) < most)
        met = [slots for label, slots in having.items() if slots and label not in aside]
        common = set.intersection(*met) if met else set()
        over = {label: set() if label in aside else common or slots for label, slots in having.items()}
        groups = {row.label: row.group.only(over[row.label]) for row in rows}
        order = tuple((concept, seed) for concept in self.concepts for seed in self.figures.seeds)
        compared = tuple(slot for slot in order if slot in common)
        return Column(groups, compared, bool(met and not common), aside)

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
        without = f", without {' and '.join(column.aside)}, begun only" if column.aside else ""
        return f"{self._compared(column)}{without}"

    def _compared(self, column: Column) -> str:
        if column.unlike:
            return "what each row has, since no training is common to all rows; look at *trainings* first"
        if len(column.slots) == len(self.concepts) * len(self.figures.seeds):
            return ALL
        seeds = {one: [seed for concept, seed in column.slots if concept == one] for one in self.concepts}
        said = [f"{one} ({', '.join(map(str, found))})" for one, found in seeds.items() if found]
        return f"the trainings (seeds) that every row has: {', '.join(said)}"
