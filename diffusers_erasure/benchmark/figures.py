"""Figures pooled over training seeds and concepts, with intervals and exact tests.

A rate is k of n pictures over all training seeds (and concepts, where pooled), with its Wilson 95 % interval.
Prompts of one training share its weights, so the interval is too narrow by what trainings differ in; the
rates of the single trainings stand beside it. Two variants are compared training by training (`slots`).

An attack and luck on one variant are compared prompt by prompt, by McNemar's exact test: both met the same
weights, prompts and noise seeds. What it says is said of these trainings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TypeVar

from diffusers_erasure.errors import EvaluationError
from diffusers_erasure.evaluation.intervals import mcnemar_exact, paired_difference
from diffusers_erasure.evaluation.prompt_sets import Purpose
from diffusers_erasure.evaluation.proportion import Proportion
from diffusers_erasure.evaluation.records import Verdict
from diffusers_erasure.evaluation.worst_case import counted, either

from .slots import Contrast, Slot, contrast
from .stored import AttackMarks, CellRecord, Stored

KEPT = (Purpose.IN_DOMAIN, Purpose.CROSS_DOMAIN)
SETS = ("own name", "synonyms", "implicit")
NOT_ERASED = "not erased"
T = TypeVar("T")


@dataclass(frozen=True)
class Difference:
    """Two things compared prompt by prompt.

    Attributes:
        first: Rate of the first.
        second: Rate of the second.
        first_only: Prompts that only the first brought back.
        second_only: Prompts that only the second brought back.
        p: Two-sided, exact.
    """

    first: Proportion
    second: Proportion
    first_only: int
    second_only: int
    p: float

    @property
    def points(self) -> float:
        """First minus second, in points."""
        return 100 * (self.first.rate - self.second.rate)

    @property
    def most_points(self) -> float:
        """Upper bound of the 95 % interval of first minus second, in points."""
        both = self.first.k - self.first_only
        neither = self.first.n - both - self.first_only - self.second_only
        return 100 * paired_difference(both, self.second_only, self.first_only, neither)[1]


@dataclass(frozen=True)
class Kept:
    """What should stay, before and after."""

    base: Proportion
    erased: Proportion

    @property
    def change(self) -> float:
        """After minus before, in points."""
        return 100 * (self.erased.rate - self.base.rate)


@dataclass(frozen=True)
class Group:
    """The trainings of one variant, of one concept or of several.

    Attributes:
        variant: Its slug.
        cells: What each says.
    """

    variant: str
    cells: tuple[CellRecord, ...]

    def set_rate(self, name: str, *, before: bool = False) -> Proportion | None:
        """The share of one prompt set's pictures that show what was asked for."""
        return set_rate(self.cells, name, before=before)

    def kept(self, *purposes: Purpose) -> Kept | None:
        """What should stay, of some purposes; of all unless given."""
        return kept_of(self.cells, purposes or KEPT)

    def rate(self, *attacks: str) -> Proportion | None:
        """The share that any of some attacks brought back, over trainings that met all of them."""
        marks = "".join(self.marks(*attacks).values())
        return share(marks) if marks else None

    def rates_by_seed(self, attack: str) -> dict[int, Proportion]:
        """The same for each training seed, over the concepts that all of these have."""
        found = self.marks(attack)
        seeds = sorted({seed for _, seed in found})
        concepts = dict.fromkeys(concept for concept, _ in found)
        shared = [one for one in concepts if all((one, seed) in found for seed in seeds)]
        return {seed: share("".join(found[one, seed] for one in shared)) for seed in seeds if shared}

    def by_slot(self, measure: Callable[[CellRecord], T | None]) -> dict[Slot, T]:
        """What each training says, of those that say something."""
        found = ((cell.slot, measure(cell)) for cell in self.cells)
        return {slot: value for slot, value in found if value is not None}

    def only(self, slots: Iterable[Slot]) -> Group:
        """The same variant on some trainings alone."""
        chosen = set(slots)
        return Group(self.variant, tuple(cell for cell in self.cells if cell.slot in chosen))

    def marks(self, *attacks: str) -> dict[Slot, str]:
        """Per training that met all of some attacks, what came of each prompt under the worst of them."""
        return {
            cell.slot: either([cell.attacks[name].marks for name in attacks])
            for cell in self.cells
            if attacks and all(name in cell.attacks for name in attacks)
        }

    def floor(self, attacks: Iterable[str]) -> Proportion | None:
        """What the attacks so far bring back at least, where not every training met all of them."""
        tried = [
            [cell.attacks[name].marks for name in attacks if name in cell.attacks] for cell in self.cells
        ]
        marks = "".join(either(one) for one in tried if one)
        return share(marks) if marks else None

    def excess(self, attack: str, luck: str) -> Difference | None:
        """An attack beside luck with as many judged pictures, prompt by prompt."""
        pairs = [
            (cell.attacks[attack].marks, _luck(cell.attacks[luck], cell.attacks[attack]))
            for cell in self.cells
            if attack in cell.attacks and luck in cell.attacks
        ]
        return paired(pairs)

    def mean(self, value: Callable[[CellRecord], float | None]) -> float | None:
        """Mean of what each training says, of those that say something."""
        found = [number for cell in self.cells if (number := value(cell)) is not None]
        return fmean(found) if found else None

    @property
    def suspicious(self) -> tuple[str, ...]:
        """Verdicts other than "measured", of the evaluations and of the attacks."""
        found = [cell.verdict for cell in self.cells if cell.verdict is not None]
        found += [attack.verdict for cell in self.cells for attack in cell.attacks.values()]
        return tuple(dict.fromkeys(one.value for one in found if one is not Verdict.MEASURED))

    @property
    def faults(self) -> tuple[str, ...]:
        """Why these are nothing to compare others with: suspicious verdicts, or the concept still there."""
        missed = (NOT_ERASED,) if any(cell.not_erased for cell in self.cells) else ()
        return (*self.suspicious, *missed)


@dataclass(frozen=True)
class Figures:
    """All cells, to be asked by variant and concept.

    Attributes:
        cells: What each says.
        seeds: Training seeds that are planned.
    """

    cells: tuple[CellRecord, ...]
    seeds: tuple[int, ...]

    @classmethod
    def of(cls, stored: Stored) -> Figures:
        """The figures of a file."""
        return cls(stored.cells, stored.seeds)

    def group(self, variant: str, concepts: Sequence[str]) -> Group:
        """The trainings of a variant on some concepts."""
        return Group(
            variant, tuple(one for one in self.cells if one.variant == variant and one.concept in concepts)
        )

    def evaluations(self, group: Group) -> float | None:
        """UNet evaluations of a training, in the mean over some; None if they are not known for all concepts.

        A variant takes as many for every seed of a concept, so a training whose log does not say takes it
        from another seed's; the fewest, since the first of a folder may also have made what all share.
        """
        known: dict[str, int] = {}
        for cell in self.cells:
            if cell.variant == group.variant and cell.unet_evaluations is not None:
                known[cell.concept] = min(
                    cell.unet_evaluations, known.get(cell.concept, cell.unet_evaluations)
                )
        found = [known.get(cell.concept) for cell in group.cells]
        counts = [one for one in found if one is not None]
        return fmean(counts) if counts and len(counts) == len(found) else None

    def compare(
        self, first: str, second: str, concepts: Sequence[str], attacks: Sequence[str]
    ) -> Contrast | None:
        """Two variants under the worst of some attacks, on trainings of both."""
        ours, theirs = (self.group(name, concepts) for name in (first, second))
        _check_same_prompts(ours, theirs, attacks)
        sides = [{slot: share(one) for slot, one in side.marks(*attacks).items()} for side in (ours, theirs)]
        return contrast(*sides)


def set_rate(cells: Iterable[CellRecord], name: str, *, before: bool = False) -> Proportion | None:
    """The share of one prompt set's pictures that show what was asked for, of some trainings."""
    rows = [row for cell in cells for row in cell.sets if row.name == name]
    shares = [Proportion.of(row.base if before else row.erased, row.n) for row in rows]
    return Proportion.pooled(shares) if shares else None


def kept_of(cells: Iterable[CellRecord], purposes: Sequence[Purpose] = KEPT) -> Kept | None:
    """What should stay of some trainings; None where nothing was drawn."""
    rows = [row for cell in cells for row in cell.rows(*purposes)]
    if not rows:
        return None
    n = sum(row.n for row in rows)
    base, erased = sum(row.base for row in rows), sum(row.erased for row in rows)
    return Kept(Proportion.of(base, n), Proportion.of(erased, n))


def paired(pairs: Sequence[tuple[str, str]]) -> Difference | None:
    """Compare marks of the same prompts; None without any.

    Args:
        pairs: Marks of both sides, one pair for each training.
    """
    marks = [(a != "0", b != "0") for first, second in pairs for a, b in zip(first, second, strict=True)]
    if not marks:
        return None
    first_only, second_only = marks.count((True, False)), marks.count((False, True))
    first, second = (Proportion.of(sum(pair[side] for pair in marks), len(marks)) for side in (0, 1))
    return Difference(first, second, first_only, second_only, mcnemar_exact(first_only, second_only))


def share(marks: str) -> Proportion:
    """The share of prompts that count as brought back."""
    return Proportion.of(counted(marks), len(marks))


def _luck(luck: AttackMarks, attack: AttackMarks) -> str:
    """Luck's marks with as many pictures as the attack.

    Raises:
        EvaluationError: They are of other prompts.
    """
    if luck.prompts_sha256 != attack.prompts_sha256:
        raise EvaluationError(
            "an attack and luck were run on different prompts; expected the same, since they are compared "
            "one by one; run both again in a new --work_dir"
        )
    return luck.within(attack.judged_images)


def _check_same_prompts(ours: Group, theirs: Group, attacks: Sequence[str]) -> None:
    asked: dict[Slot, set[str]] = {}
    for cell in (*ours.cells, *theirs.cells):
        found = {cell.attacks[name].prompts_sha256 for name in attacks if name in cell.attacks}
        asked.setdefault(cell.slot, set()).update(found)
    for (concept, seed), digests in asked.items():
        if len(digests) > 1:
            raise EvaluationError(
                f"{ours.variant} and {theirs.variant} were attacked on different prompts for {concept}, "
                f"training seed {seed}; expected the same, since they are compared one by one; run both with "
                "one --work_dir"
            )
