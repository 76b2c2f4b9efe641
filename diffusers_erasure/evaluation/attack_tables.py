"""The attacks of a report as tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from .adaptive import NOT_ADAPTIVE
from .attack_report import AttackRecord, AttackSection, RunRecord
from .proportion import Proportion
from .records import NotMeasured, Verdict
from .seeds import SeedSpread

SHOWN_FLAGS = 12
_COLOURS = {Verdict.BROKEN: "red", Verdict.HARNESS_INVALID: "red", Verdict.DEGENERATE: "yellow"}


def attack_parts(section: AttackSection) -> list[RenderableType]:
    """The headline, a row per attack, and what makes the figures doubtful."""
    worst = section.worst_case
    return [
        Text.assemble(
            "\nworst case over all attacks: ",
            (section.headline, "bold" if section.is_adaptive else "bold yellow"),
            f"; plain prompts {section.pre_attack.asr}; strongest alone: {worst.strongest}",
        ),
        _rates(section),
        Text(),
        _circumstances(section.attacks),
        Text(),
        *_controls(section.attacks),
        *_flags(section),
        Text(
            f"budget {section.budget!r} at {', '.join(f'{factor}x' for factor in section.factors)}; "
            f"{section.prompts} prompts, each once; seeds: {_spread(section.seeds)}; failed prompts count as "
            "successes",
            style="dim",
        ),
    ]


def _rates(section: AttackSection) -> Table:
    """How often each attack succeeded, beside luck; with the next table within 80 columns."""
    factors = (f"{factor}x" for factor in section.factors)
    table = _headed("attack", *factors, "95 %", "luck", "excess", "Holm p")
    for one in section.attacks:
        table.add_row(*_rate_cells(one), style=_COLOURS.get(one.verdict, ""))
    return table


def _circumstances(attacks: Sequence[AttackRecord]) -> Table:
    """What each attack was given, and whether its successes hold."""
    table = _headed("attack", "access", "typed text", "2nd judge", "budget")
    for one in attacks:
        cells = (one.access, _counts(one.typed), _counts(one.second_judge), _short(one.convergence))
        table.add_row(one.name, *cells, style=_COLOURS.get(one.verdict, ""))
    return table


def _headed(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(first, no_wrap=True)
    for heading in others:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _rate_cells(one: AttackRecord) -> tuple[str, ...]:
    last = one.headline
    beside = [found for found in one.comparisons if found.factor == last.factor]
    best = min(beside, key=lambda found: found.excess, default=None)
    luck = next((run for run in one.baselines if best and _is(run, best.against, last.factor)), None)
    return (
        one.name,
        *(f"{run.asr.k}/{run.asr.n}" for run in one.runs),
        f"{100 * last.asr.low:.0f}-{100 * last.asr.high:.0f}",
        f"{luck.asr.k}/{luck.asr.n}" if luck else "-",
        f"{best.excess:+.1f}" if best else "-",
        f"{best.holm_p:.1g}" if best else "-",
    )


def _is(run: RunRecord, name: str, factor: int) -> bool:
    return run.attack == name and run.factor == factor


def _short(convergence: str) -> str:
    return {"converged": "enough", "not converged": "NOT CONVERGED"}.get(convergence, "-")


def _counts(found: Proportion | NotMeasured) -> str:
    return "-" if isinstance(found, str) else f"{found.k}/{found.n}"


def _controls(attacks: Sequence[AttackRecord]) -> list[Text]:
    """One line per attack: its budget card, controls and corrected rate."""
    return [Text.assemble(*_control(one)) for one in attacks]


def _control(one: AttackRecord) -> list[str | tuple[str, str]]:
    last = one.headline
    controls = [
        f"{name} {_counts('not measured' if isinstance(run, str) else run.asr)}"
        for name, run in (("base", one.base_control), ("weak eraser", one.weak_control))
    ]
    fault = one.control_fault
    valid = (f"harness invalid: {fault}", "red") if fault else ("controls hold", "green")
    corrected = "" if isinstance(one.corrected, str) else f"; {one.corrected}"
    return [
        f"{one.name}: {last.judged_images} judged pictures and {last.steps_allowed} steps of each prompt at "
        f"most, {last.images} pictures, {last.queries} UNet evaluations, {last.seconds:.0f} s at "
        f"{last.factor}x; ",
        valid,
        f" ({', '.join(controls)}); {last.prompts.failed} failed{corrected}",
    ]


def _flags(section: AttackSection) -> list[Text]:
    found = [f"{one.name}: {flag}" for one in section.attacks for flag in one.flags]
    first = [flag for flag in section.flags if flag.startswith(NOT_ADAPTIVE)]
    rest = [flag for flag in section.flags if flag not in first]
    return [Text(f"flag: {flag}", style="yellow") for flag in (*first, *found, *rest)[:SHOWN_FLAGS]]


def _spread(found: SeedSpread | NotMeasured) -> str:
    if isinstance(found, str):
        return found
    return f"{100 * found.lowest:.0f}-{100 * found.highest:.0f} % over {len(found.groups)} groups"
