"""Tables of the page: a row for each variant, narrow enough for the width of a code host's page.

`–` is "not measured yet". A row with a training that broke the model, or a measurement that is not to be
believed, says so in place of its rates under attack: it is never shown as robust.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from diffusers_erasure.evaluation.multiple_testing import holm
from diffusers_erasure.evaluation.prompt_sets import Purpose
from diffusers_erasure.evaluation.proportion import Proportion

from .checks import LEVEL, NAMES
from .figures import SETS, Difference, Figures, Group
from .profiles import ATTACKS, EMBEDDED, LUCK, TYPED
from .variants import Variant

MISSING = "–"
SEARCHES = (*TYPED, *EMBEDDED)


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

    def groups(self) -> list[tuple[str, Group]]:
        """Label and trainings of each variant that has any."""
        found = [(one.label, self.figures.group(one.slug, self.concepts)) for one in self.variants]
        return [(label, group) for label, group in found if group.cells]

    def of(self, *attacks: str) -> tuple[str, ...]:
        """Those of some attacks that were planned."""
        return tuple(one for one in attacks if one in self.attacks)


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(row)} |\n" for row in lines)


def plain_table(shown: Shown) -> str:
    """Without an attack: pictures that show the concept."""
    groups = shown.groups()
    before = [_rate(_before(groups, name)) for name in SETS]
    rows = [["*before*", *before, "", ""]]
    for label, group in groups:
        rates = [_rate(group.set_rate(name)) for name in SETS]
        verdict = ", ".join(group.suspicious) or ("measured" if _evaluated(group) else MISSING)
        planned = len(shown.concepts) * len(shown.figures.seeds)
        rows.append([label, *rates, verdict, f"{_evaluated(group)} of {planned}"])
    return markdown(("method", *SETS, "verdict", "trainings"), rows)


def _before(groups: Sequence[tuple[str, Group]], name: str) -> Proportion | None:
    """The base's own rate: of each concept and seed once, whichever variants were evaluated there."""
    once = {(cell.concept, cell.seed): cell for _, group in groups for cell in group.cells if cell.sets}
    return Group("", tuple(once.values())).set_rate(name, before=True)


def _evaluated(group: Group) -> int:
    return sum(cell.verdict is not None for cell in group.cells)


def typed_table(shown: Shown) -> str:
    """Under attacks that can be typed, and by luck."""
    names = shown.of(*TYPED, *LUCK)
    rows = [
        [label, *(_under_attack(group, _rate(group.rate(name))) for name in names)]
        for label, group in shown.groups()
    ]
    return markdown(("method", *(NAMES[name] for name in names)), rows)


def worst_table(shown: Shown) -> str:
    """Under attacks that need vectors, and the worst case."""
    names = shown.of(*EMBEDDED)
    typed, every = shown.of(*TYPED, *LUCK), shown.attacks
    rows = []
    for label, group in shown.groups():
        rates = [_under_attack(group, _rate(group.rate(name))) for name in names]
        worst = [_under_attack(group, _worst(group, tried)) for tried in (typed, every)]
        rows.append([label, *rates, *worst])
    return markdown(("method", *(NAMES[name] for name in names), "worst typed", "worst of all"), rows)


def _worst(group: Group, attacks: Sequence[str]) -> str:
    """The worst case; at least what was found where an attack is still missing."""
    met = [cell for cell in group.cells if set(attacks) <= set(cell.attacks)]
    if len(met) == len(group.cells):
        return _rate(group.rate(*attacks))
    floor = group.floor(attacks)
    return MISSING if floor is None else f"{floor.k}/{floor.n} or more"


def excess_table(shown: Shown) -> str:
    """Each attack beside random tokens with as many judged pictures: points, and p."""
    names = shown.of(*SEARCHES)
    groups = shown.groups()
    found = {
        (label, name): difference
        for label, group in groups
        for name in names
        if (difference := group.excess(name, "random_tokens")) is not None
    }
    adjusted = dict(zip(found, holm([one.p for one in found.values()]), strict=True))
    rows = []
    for label, group in groups:
        said = [_excess(found.get((label, name)), adjusted.get((label, name), 1.0)) for name in names]
        rows.append([label, *(_under_attack(group, text) for text in said)])
    return markdown(("method", *(NAMES[name] for name in names)), rows)


def _excess(found: Difference | None, adjusted: float) -> str:
    if found is None:
        return MISSING
    star = " \\*" if adjusted < LEVEL else ""
    return f"{found.points:+.0f} (p {found.p:.1g}){star}"


def kept_table(shown: Shown) -> str:
    """What should stay."""
    rows = []
    for label, group in shown.groups():
        kept = [group.kept(Purpose.IN_DOMAIN), group.kept(Purpose.CROSS_DOMAIN)]
        whole = group.kept()
        counts = [
            MISSING if one is None else f"{one.base.k} → {one.erased.k} of {one.base.n}" for one in kept
        ]
        change = MISSING if whole is None else f"{whole.change:+.1f}"
        agreement, kid = group.mean(lambda cell: cell.agreement), group.mean(lambda cell: cell.kid)
        rows.append(
            [label, *counts, change, _number(agreement, "{:.3f}"), _number(kid, "{:.1f}", times=1000)]
        )
    return markdown(("method", "in-domain", "cross-domain", "change", "agreement", "1000 KID"), rows)


def cost_table(shown: Shown) -> str:
    """What a training costs, and how far trainings of other seeds differ."""
    rows = []
    for label, group in shown.groups():
        seconds = [cell.train_seconds for cell in group.cells if cell.train_seconds is not None]
        spread = f"{fmean(seconds):.0f} ({min(seconds):.0f}–{max(seconds):.0f})" if seconds else MISSING
        evaluations = group.mean(lambda cell: cell.unet_evaluations)
        megabytes = group.mean(lambda cell: cell.artifact_bytes)
        seeds = group.rates_by_seed("unlearndiffatk")
        by_seed = ", ".join(f"{100 * rate.rate:.0f} %" for rate in seeds.values()) or MISSING
        rows.append(
            [
                label,
                spread,
                _number(evaluations, "{:,.0f}"),
                _number(megabytes, "{:.2f}", times=1e-6),
                _under_attack(group, by_seed),
            ]
        )
    return markdown(
        ("method", "training s", "UNet evaluations", "MB", "UnlearnDiffAtk by training seed"), rows
    )


def parts_table(shown: Shown) -> str:
    """An ablation: what matters of it in one table."""
    rows = []
    for label, group in shown.groups():
        kept = group.kept()
        rates = [_under_attack(group, _rate(group.rate(name))) for name in shown.attacks]
        change = MISSING if kept is None else f"{kept.change:+.1f}"
        kid = _number(group.mean(lambda cell: cell.kid), "{:.1f}", times=1000)
        rows.append([label, _rate(group.set_rate("own name")), *rates, change, kid])
    attacks = [NAMES[name] for name in shown.attacks]
    return markdown(("variant", "own name", *attacks, "retention, points", "1000 KID"), rows)


def _under_attack(group: Group, rate: str) -> str:
    """A rate under attack, or why there is none."""
    return " and ".join(group.suspicious) or rate


def _rate(found: Proportion | None) -> str:
    """`6/34 (8–34)`: counts, and the 95 % interval in percent."""
    if found is None:
        return MISSING
    return f"{found.k}/{found.n} ({100 * found.low:.0f}–{100 * found.high:.0f})"


def _number(value: float | None, form: str, *, times: float = 1.0) -> str:
    return MISSING if value is None else form.format(times * value)


def summary_rows(shown: Shown) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Columns and rows for a terminal; attacks that nothing met are left out."""
    groups = shown.groups()
    met = [name for name in shown.attacks if any(group.rate(name) for _, group in groups)]
    columns = ("method", "own name", *(NAMES[name] for name in met), "retained", "training s")
    rows = []
    for label, group in groups:
        kept, seconds = group.kept(), group.mean(lambda cell: cell.train_seconds)
        rates = [_under_attack(group, _counts(group.rate(name))) for name in met]
        change = MISSING if kept is None else f"{kept.change:+.1f}"
        own = _counts(group.set_rate("own name"))
        rows.append((label, own, *rates, change, _number(seconds, "{:.0f}")))
    return columns, rows


def _counts(found: Proportion | None) -> str:
    return MISSING if found is None else f"{found.k}/{found.n}"


def legend() -> Mapping[str, str]:
    """What columns mean."""
    return {
        "own name, synonyms, implicit": "pictures in which the judge still sees the concept",
        "worst typed, worst of all": "prompts that any attack brought back: those that can be typed; all",
        "in-domain, cross-domain": "pictures that show what was asked for and should stay, before → after",
        "change": "points that all of these lose or gain together",
        "agreement, KID": "likeness of these pictures to the base's own (1 is the same), and their distance",
        "UNet evaluations": "samples that a training sends through the UNet, forward",
    }
