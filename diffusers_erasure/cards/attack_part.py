"""The tables of what attacks found: rates by budget, equal-budget luck, budget cards, controls and flags."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import JsonValue

from diffusers_erasure.evaluation.attack_report import AttackRecord, AttackSection, Comparison, RunRecord
from diffusers_erasure.evaluation.multiple_testing import FalseSuccessRate
from diffusers_erasure.evaluation.records import NOT_MEASURED, NotMeasured

from .evaluation_part import p_value, percent, spread
from .markdown import Table, as_json, code, plain

NO_SUCH = "none"
_RESTARTS = ("restarts", "tries")
_TOKENS = ("tokens", "vectors")
_PLACES = ("placement", "place", "position")


def rates_table(section: AttackSection) -> Table:
    """How often each attack brought the concept back, at each budget."""
    factors = tuple(f"{factor}x" for factor in section.factors)
    columns = ("attack", *factors, "corrected for the judge", "verdict")
    rows = [
        ("no attack (plain prompts)", percent(section.pre_attack.asr), *_filled((), section)[1:], "-", "-")
    ]
    rows += [
        (
            code(one.name),
            *_filled(one.runs, section),
            str(one.corrected).removesuffix(", corrected for the judge"),
            one.verdict.value,
        )
        for one in section.attacks
    ]
    rows.append(
        (
            "**worst case per prompt, over all of them**",
            *("-" for _ in factors[1:]),
            f"**{section.worst_case.asr}**",
            NOT_MEASURED,
            section.verdict.value,
        )
    )
    return Table.of(columns, rows, numbers=columns[1:-1])


def _filled(runs: tuple[RunRecord, ...], section: AttackSection) -> tuple[str, ...]:
    """One cell per budget factor of the section."""
    by_factor = {run.factor: str(run.asr) for run in runs}
    return tuple(by_factor.get(factor, NOT_MEASURED if runs else "-") for factor in section.factors)


def luck_table(section: AttackSection) -> Table | None:
    """Each attack at its largest budget beside luck with as many judged pictures; None without any."""
    columns = (
        "attack", "beside", "judged pictures of each", "attack succeeds", "luck succeeds", "excess",
        "McNemar p", "Holm p",
    )  # fmt: skip
    rows = [
        (
            code(one.name),
            code(found.against),
            str(found.judged_images[1]),
            percent(one.headline.asr),
            _luck(one, found),
            f"{found.excess:+.1f} points",
            p_value(found.mcnemar_p),
            p_value(found.holm_p),
        )
        for one in section.attacks
        for found in one.comparisons
        if found.factor == one.headline.factor
    ]
    return Table.of(columns, rows, numbers=columns[2:]) if rows else None


def _luck(one: AttackRecord, found: Comparison) -> str:
    run = next(
        (run for run in one.baselines if (run.attack, run.factor) == (found.against, found.factor)), None
    )
    return NOT_MEASURED if run is None else percent(run.asr)


def budget_table(section: AttackSection) -> Table:
    """The budget card of each attack at its largest budget."""
    columns = (
        "attack", "budget", "access", "steps a prompt", "restarts", "tokens", "place", "judged pictures "
        "a prompt",
        "pictures in all", "UNet evaluations", "seconds",
    )  # fmt: skip
    rows = (_budget(one) for one in section.attacks)
    return Table.of(columns, rows, numbers=columns[3:6] + columns[7:])


def _budget(one: AttackRecord) -> tuple[str, ...]:
    run = one.headline
    return (
        code(one.name),
        f"{run.factor}x",
        plain(one.access),
        str(run.steps_allowed),
        _setting(run.settings, _RESTARTS),
        _setting(run.settings, _TOKENS),
        _setting(run.settings, _PLACES),
        str(run.judged_images),
        str(run.images),
        str(run.queries),
        f"{run.seconds:.0f}",
    )


def _setting(settings: Mapping[str, JsonValue], names: tuple[str, ...]) -> str:
    """The first of some settings that the attack has; an attack without any has none."""
    return next((as_json(settings[name]) for name in names if settings.get(name) is not None), NO_SUCH)


def checks_table(section: AttackSection) -> Table:
    """What makes each attack's rate believable, or not."""
    columns = (
        "attack", "on the base", "on a weak eraser", "as typed text", "2nd judge", "the judge's errors alone",
        "more budget", "failed prompts",
    )  # fmt: skip
    rows = (
        (
            code(one.name),
            _rate(one.base_control),
            _rate(one.weak_control),
            percent(one.typed),
            percent(one.second_judge),
            _alone(one.false_success),
            one.convergence,
            str(one.headline.prompts.failed),
        )
        for one in section.attacks
    )
    return Table.of(columns, rows, numbers=(*columns[1:6], columns[7]))


def _rate(run: RunRecord | NotMeasured) -> str:
    return run if isinstance(run, str) else percent(run.asr)


def _alone(found: FalseSuccessRate | NotMeasured) -> str:
    if isinstance(found, str):
        return found
    return f"{100 * found.rate:.1f} % ({100 * found.low:.1f}-{100 * found.high:.1f})"


def flags(section: AttackSection) -> tuple[str, ...]:
    """Signs that a rate is too low, as Markdown."""
    own = (f"{code(one.name)}: {plain(flag)}" for one in section.attacks for flag in one.flags)
    return (*(plain(flag) for flag in section.flags), *own)


def headline(section: AttackSection) -> str:
    """The worst case in one sentence."""
    worst = section.worst_case
    return (
        f"Worst case: **{plain(section.headline)}** of the prompts bring the concept back under some attack "
        f"or by luck; as plain prompts {section.pre_attack.asr}. Strongest alone: {code(worst.strongest)}. "
        f"{section.prompts} prompts, budget {code(section.budget)}; over seeds {spread(section.seeds)}. A "
        "prompt that could not be attacked to the end counts as a success of the attack."
    )
