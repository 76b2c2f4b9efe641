"""Figures pooled over training seeds and concepts, with intervals and exact tests.

A rate is k of n pictures over all training seeds (and concepts, where pooled), with its Wilson 95 % interval.
Prompts of one training share its weights, so the interval is too narrow by what trainings differ in; the
rates of the single trainings stand beside it.

Two variants under one attack, and an attack and luck on one variant, are compared prompt by prompt: the
trainings that both have, the same prompts and noise seeds, exact McNemar. Of the pictures without an attack
only counts are kept, so that rates of them are compared by Fisher's exact test, which takes them as
independent and so finds less than a paired test would.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import comb
from statistics import fmean

from diffusers_erasure.errors import EvaluationError
from diffusers_erasure.evaluation.intervals import mcnemar_exact
from diffusers_erasure.evaluation.prompt_sets import Purpose
from diffusers_erasure.evaluation.proportion import Proportion
from diffusers_erasure.evaluation.records import Verdict
from diffusers_erasure.evaluation.worst_case import counted, either

from .stored import AttackMarks, CellRecord, Stored

KEPT = (Purpose.IN_DOMAIN, Purpose.CROSS_DOMAIN)
SETS = ("own name", "synonyms", "implicit")
Slot = tuple[str, int]
"""A concept and a training seed."""


@dataclass(frozen=True)
class Difference:
    """Two things compared.

    Attributes:
        first: Rate of the first.
        second: Rate of the second.
        first_only: Prompts that only the first brought back; None where nothing is paired.
        second_only: Prompts that only the second brought back.
        p: Two-sided, exact.
    """

    first: Proportion
    second: Proportion
    first_only: int | None
    second_only: int | None
    p: float

    @property
    def points(self) -> float:
        """First minus second, in points."""
        return 100 * (self.first.rate - self.second.rate)


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
        rows = [row for cell in self.cells for row in cell.sets if row.name == name]
        shares = [Proportion.of(row.base if before else row.erased, row.n) for row in rows]
        return Proportion.pooled(shares) if shares else None

    def kept(self, *purposes: Purpose) -> Kept | None:
        """What should stay, of some purposes; of all unless given."""
        rows = [row for cell in self.cells for row in cell.rows(*(purposes or KEPT))]
        if not rows:
            return None
        base, erased = (
            [Proportion.of(k, row.n) for k, row in zip(ks, rows, strict=True)]
            for ks in ([row.base for row in rows], [row.erased for row in rows])
        )
        return Kept(Proportion.pooled(base), Proportion.pooled(erased))

    def rate(self, *attacks: str) -> Proportion | None:
        """The share that any of some attacks brought back, over trainings that met all of them."""
        marks = "".join(self.marks(*attacks).values())
        return share(marks) if marks else None

    def rates_by_seed(self, attack: str) -> dict[int, Proportion]:
        """The same for each training seed."""
        seeds: dict[int, str] = {}
        for (_, seed), marks in self.marks(attack).items():
            seeds[seed] = seeds.get(seed, "") + marks
        return {seed: share(marks) for seed, marks in sorted(seeds.items())}

    def marks(self, *attacks: str) -> dict[Slot, str]:
        """Per training that met all of some attacks, what came of each prompt under the worst of them."""
        return {
            (cell.concept, cell.seed): either([cell.attacks[name].marks for name in attacks])
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
    def seeds(self) -> tuple[int, ...]:
        """Training seeds of which there is something."""
        return tuple(sorted({cell.seed for cell in self.cells}))


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

    def compare(
        self, first: str, second: str, concepts: Sequence[str], attacks: Sequence[str]
    ) -> Difference | None:
        """Two variants under the worst of some attacks, prompt by prompt, on trainings of both."""
        ours, theirs = (self.group(name, concepts) for name in (first, second))
        _check_same_prompts(ours, theirs, attacks)
        own, other = ours.marks(*attacks), theirs.marks(*attacks)
        return paired([(own[slot], other[slot]) for slot in own if slot in other])


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


def unpaired(first: Proportion, second: Proportion) -> Difference:
    """Compare two rates by Fisher's exact test."""
    return Difference(first, second, None, None, fisher_exact(first.k, first.n, second.k, second.n))


def fisher_exact(k: int, n: int, other_k: int, other_n: int) -> float:
    """Two-sided p of Fisher's exact test: tables no more likely than this one, margins given."""
    successes, total = k + other_k, n + other_n
    weights = [
        comb(n, count) * comb(other_n, successes - count)
        for count in range(max(0, successes - other_n), min(n, successes) + 1)
    ]
    here = comb(n, k) * comb(other_n, other_k)
    return float(sum(weight for weight in weights if weight <= here) / comb(total, successes))


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
        asked.setdefault((cell.concept, cell.seed), set()).update(found)
    for (concept, seed), digests in asked.items():
        if len(digests) > 1:
            raise EvaluationError(
                f"{ours.variant} and {theirs.variant} were attacked on different prompts for {concept}, "
                f"training seed {seed}; expected the same, since they are compared one by one; run both with "
                "one --work_dir"
            )
