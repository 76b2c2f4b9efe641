"""Tables of the page: a row for each variant, narrow enough for the width of a code host's page.

`–` is "not measured yet". A row with a training that broke the model, or a measurement that is not to be
believed, says so in place of its rates under attack: it is never shown as robust. A row whose concept is
still there without any attack is marked †. Columns are pooled over trainings that all rows have
(`shown`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from diffusers_erasure.evaluation.multiple_testing import holm
from diffusers_erasure.evaluation.prompt_sets import Purpose
from diffusers_erasure.evaluation.proportion import Proportion

from .answers import LEVEL
from .checks import NAMES
from .figures import SETS, Difference, Group
from .profiles import EMBEDDED, LUCK, TYPED
from .shown import Column, Has, Shown
from .stored import MOST_LEFT, CellRecord

MISSING = "–"
SEARCHES = (*TYPED, *EMBEDDED)


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(row)} |\n" for row in lines)


def _met(*attacks: str) -> Has:
    """Whether a training met all of some attacks."""
    return lambda cell: set(attacks) <= set(cell.attacks)


def _met_any(attacks: Sequence[str]) -> Has:
    return lambda cell: not set(attacks).isdisjoint(cell.attacks)


def _evaluated(cell: CellRecord) -> bool:
    return cell.verdict is not None


@dataclass(frozen=True)
class Table:
    """A table for people.

    Attributes:
        text: In Markdown.
        over: Over which trainings its columns compare the rows.
    """

    text: str
    over: str


def plain_table(shown: Shown) -> Table:
    """Without an attack: pictures that show the concept."""
    column = shown.column(_evaluated)
    before = [_rate(_before(column.groups.values(), name)) for name in SETS]
    table = [["*before*", *before, "", ""]]
    planned = len(shown.concepts) * len(shown.figures.seeds)
    for row in shown.rows():
        rates = [_rate(column.groups[row.label].set_rate(name)) for name in SETS]
        done = sum(map(_evaluated, row.group.cells))
        verdict = ", ".join(row.group.faults) or ("measured" if done else MISSING)
        table.append([row.label, *rates, verdict, f"{done} of {planned}"])
    columns = ("method", *SETS, "verdict", "trainings")
    return Table(markdown(columns, table), shown.over({"all": column}))


def _before(groups: Iterable[Group], name: str) -> Proportion | None:
    """The base's own rate: of each concept and seed once, whichever variants were evaluated there."""
    once = {cell.slot: cell for group in groups for cell in group.cells if cell.sets}
    return Group("", tuple(once.values())).set_rate(name, before=True)


def typed_table(shown: Shown) -> Table:
    """Under attacks that can be typed, and by luck."""
    columns = _rates(shown, shown.of(*TYPED, *LUCK))
    return _attacked(shown, columns)


def worst_table(shown: Shown) -> Table:
    """Under attacks that need vectors, and the worst case."""
    columns = _rates(shown, shown.of(*EMBEDDED))
    for name, tried in (("worst typed", shown.of(*TYPED, *LUCK)), ("worst of all", shown.attacks)):
        column = shown.column(_met_any(tried))
        columns[name] = (column, {label: _worst(one, tried) for label, one in column.groups.items()})
    return _attacked(shown, columns)


Said = dict[str, tuple[Column, dict[str, str]]]
"""By column: what it is over, and what it says of each row."""


def _rates(shown: Shown, attacks: Sequence[str]) -> Said:
    found = {}
    for name in attacks:
        column = shown.column(_met(name))
        found[NAMES[name]] = (
            column,
            {label: _rate(group.rate(name)) for label, group in column.groups.items()},
        )
    return found


def _attacked(shown: Shown, columns: Said) -> Table:
    """A table of what is said under attack, or why nothing is."""
    table = [
        [row.head, *(_under_attack(row.group, said[row.label]) for _, said in columns.values())]
        for row in shown.rows()
    ]
    over = {name: column for name, (column, _) in columns.items()}
    return Table(markdown(("method", *columns), table), shown.over(over))


def _worst(group: Group, attacks: Sequence[str]) -> str:
    """The worst case; at least what was found where an attack is still missing."""
    if all(set(attacks) <= set(cell.attacks) for cell in group.cells):
        return _rate(group.rate(*attacks))
    floor = group.floor(attacks)
    return MISSING if floor is None else f"{floor.k}/{floor.n} or more"


def excess_table(shown: Shown) -> Table:
    """Each attack beside random tokens with as many judged pictures: points, and p."""
    columns = {name: shown.column(_met(name, "random_tokens")) for name in shown.of(*SEARCHES)}
    found = {
        (label, name): difference
        for name, column in columns.items()
        for label, group in column.groups.items()
        if (difference := group.excess(name, "random_tokens")) is not None
    }
    adjusted = dict(zip(found, holm([one.p for one in found.values()]), strict=True))
    said: Said = {
        NAMES[name]: (
            column,
            {
                label: _excess(found.get((label, name)), adjusted.get((label, name), 1.0))
                for label in column.groups
            },
        )
        for name, column in columns.items()
    }
    return _attacked(shown, said)


def _excess(found: Difference | None, adjusted: float) -> str:
    if found is None:
        return MISSING
    star = " \\*" if adjusted < LEVEL else ""
    return f"{found.points:+.0f} (p {found.p:.1g}){star}"


def kept_table(shown: Shown) -> Table:
    """What should stay."""
    column = shown.column(_evaluated)
    table = []
    for row in shown.rows():
        group = column.groups[row.label]
        kept = [group.kept(Purpose.IN_DOMAIN), group.kept(Purpose.CROSS_DOMAIN)]
        counts = [
            MISSING if one is None else f"{one.base.k} → {one.erased.k} of {one.base.n}" for one in kept
        ]
        agreement = _number(group.mean(lambda cell: cell.agreement), "{:.3f}")
        table.append([row.head, *counts, _change(group), agreement, _kid(group)])
    columns = ("method", "in-domain", "cross-domain", "change", "agreement", "1000 KID")
    return Table(markdown(columns, table), shown.over({"all": column}))


def cost_table(shown: Shown) -> Table:
    """What a training costs, and how far trainings of other seeds differ."""
    trained, attacked = shown.column(lambda _: True), shown.column(_met("unlearndiffatk"))
    table = []
    for row in shown.rows():
        group = trained.groups[row.label]
        seconds = [cell.train_seconds for cell in group.cells if cell.train_seconds is not None]
        spread = f"{fmean(seconds):.0f} ({min(seconds):.0f}–{max(seconds):.0f})" if seconds else MISSING
        if 0 < len(seconds) < len(group.cells):
            spread += f", of {len(seconds)} in {len(group.cells)}"
        cost = _number(shown.figures.evaluations(group), "{:,.0f}")
        megabytes = _number(group.mean(lambda cell: cell.artifact_bytes), "{:.2f}", times=1e-6)
        seeds = attacked.groups[row.label].rates_by_seed("unlearndiffatk")
        by_seed = ", ".join(f"{100 * rate.rate:.0f} %" for rate in seeds.values()) or MISSING
        table.append([row.head, spread, cost, megabytes, _under_attack(row.group, by_seed)])
    columns = ("method", "training s", "UNet evaluations", "MB", "UnlearnDiffAtk by training seed")
    return Table(markdown(columns, table), shown.over({"cost": trained, "by training seed": attacked}))


def parts_table(shown: Shown, agrees: Mapping[str, str]) -> Table:
    """An ablation: what matters of it in one table.

    Args:
        shown: Rows; the first is the whole method.
        agrees: By slug, whether the paper's claim of this part is borne out.
    """
    evaluated, columns = shown.column(_evaluated), _rates(shown, shown.attacks)
    rows = {row.group.variant: row for row in shown.rows()}
    table = []
    for variant in shown.variants:
        row, paper = rows.get(variant.slug), agrees.get(variant.slug, "")
        if row is None:
            table.append([variant.label, *[MISSING] * (3 + len(columns)), paper])
            continue
        group = evaluated.groups[row.label]
        rates = [_under_attack(row.group, said[row.label]) for _, said in columns.values()]
        table.append(
            [row.head, _rate(group.set_rate("own name")), *rates, _change(group), _kid(group), paper]
        )
    names = ("variant", "own name", *columns, "retention, points", "1000 KID", "agrees with the paper")
    over = {"own name and retention": evaluated, **{name: column for name, (column, _) in columns.items()}}
    return Table(markdown(names, table), shown.over(over))


def _under_attack(group: Group, rate: str) -> str:
    """A rate under attack, or why there is none."""
    return " and ".join(group.suspicious) or rate


def _change(group: Group) -> str:
    kept = group.kept()
    return MISSING if kept is None else f"{kept.change:+.1f}"


def _kid(group: Group) -> str:
    return _number(group.mean(lambda cell: cell.kid), "{:.1f}", times=1000)


def _rate(found: Proportion | None) -> str:
    """`6/34 (8–34)`: counts, and the 95 % interval in percent."""
    if found is None:
        return MISSING
    return f"{found.k}/{found.n} ({100 * found.low:.0f}–{100 * found.high:.0f})"


def _number(value: float | None, form: str, *, times: float = 1.0) -> str:
    return MISSING if value is None else form.format(times * value)


def summary_rows(shown: Shown) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Columns and rows for a terminal; attacks that nothing met are left out."""
    evaluated, trained = shown.column(_evaluated), shown.column(lambda _: True)
    met = {name: shown.column(_met(name)) for name in measured(shown)}
    columns = ("method", "own name", *(NAMES[name] for name in met), "retained", "training s")
    rows = []
    for row in shown.rows():
        group = evaluated.groups[row.label]
        rates = [_under_attack(row.group, _counts(met[name].groups[row.label].rate(name))) for name in met]
        seconds = _number(trained.groups[row.label].mean(lambda cell: cell.train_seconds), "{:.0f}")
        own = _counts(group.set_rate("own name"))
        rows.append((row.head, own, *rates, _change(group), seconds))
    return columns, rows


def measured(shown: Shown) -> tuple[str, ...]:
    """Attacks that any training met."""
    return tuple(one for one in shown.attacks if any(_any(row.group, one) for row in shown.rows()))


def _any(group: Group, attack: str) -> bool:
    return any(map(_met(attack), group.cells))


def _counts(found: Proportion | None) -> str:
    return MISSING if found is None else f"{found.k}/{found.n}"


def legend() -> Mapping[str, str]:
    """What columns mean."""
    return {
        "own name, synonyms, implicit": "pictures in which the judge still sees the concept",
        "not erased, †": f"a training still shows it in over {100 * MOST_LEFT:.0f} % of own-name pictures",
        "worst typed, worst of all": "prompts that any attack brought back: those that can be typed; all",
        "in-domain, cross-domain": "pictures that show what was asked for and should stay, before → after",
        "change": "points that all of these lose or gain together",
        "agreement, KID": "likeness of these pictures to the base's own (1 is the same), and their distance",
        "UNet evaluations": "samples that a training sends through the UNet, forward",
        "agrees with the paper": "what came of the claims below that are about this part",
    }
