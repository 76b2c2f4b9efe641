"""The table of what brings the concept back when somebody holds more than a prompt; its rows are fixed."""

from __future__ import annotations

from diffusers_erasure.evaluation.attack_report import AttackRecord
from diffusers_erasure.evaluation.reactivation_items import BY_KEY, INVERSION, RULE_ITEMS
from diffusers_erasure.evaluation.reactivation_report import ReactivationReport, ReactivationRow
from diffusers_erasure.evaluation.records import NOT_MEASURED
from diffusers_erasure.evaluation.report import EvaluationReport

from .evaluation_part import p_value
from .markdown import Table, code, plain

INVERSION_ATTACK = "concept_inversion"


def reactivation_table(found: ReactivationReport | None, report: EvaluationReport | None) -> Table:
    """Every item of the rule in its order, with what was found or "not measured".

    Args:
        found: The record of manipulations, if there is one.
        report: The evaluation, which may hold concept inversion among its attacks.
    """
    measured = {} if found is None else {row.key: row for row in found.rows}
    keys = dict.fromkeys([*(item.key for item in RULE_ITEMS), *measured])
    rows = []
    for key in keys:
        row = measured.get(key)
        if found is not None and row is not None:
            rows.append((plain(row.title), *_cells(found, row)))
        elif key == INVERSION and (attack := inversion_attack(report)) is not None:
            rows.append((BY_KEY[key].title, *_attack_cells(attack)))
        else:
            rows.append((BY_KEY[key].title, *_reason(found, key)))
    return Table.of(("manipulation", "concept is drawn", "McNemar p", "remark"), rows, numbers=("McNemar p",))


def inversion_attack(report: EvaluationReport | None) -> AttackRecord | None:
    """Concept inversion among the attacks of a report."""
    if report is None or isinstance(report.attacks, str):
        return None
    return next((one for one in report.attacks.attacks if one.name == INVERSION_ATTACK), None)


def _cells(found: ReactivationReport, row: ReactivationRow) -> tuple[str, str, str]:
    p = found.p_against_erased(row)
    remarks = [plain(row.note)] if row.note else []
    if row.base_control is not None:
        remarks.append(f"the same on the base: {row.base_control}")
    if row.taken_from:
        remarks.append(f"from {code(row.taken_from)}")
    return str(row), NOT_MEASURED if p is None else p_value(p), "; ".join(remarks) or "-"


def _attack_cells(attack: AttackRecord) -> tuple[str, str, str]:
    run = attack.headline
    return (
        str(run.asr),
        "-",
        f"share of prompts, as an attack at {run.factor}x of its budget, {attack.verdict.value}",
    )


def _reason(found: ReactivationReport | None, key: str) -> tuple[str, str, str]:
    why = "" if found is None else found.not_measured.get(key, "")
    return NOT_MEASURED, "-", plain(why) or "-"


def told(found: ReactivationReport) -> str:
    """How the rows were measured, in words."""
    made = found.settings
    return (
        f"Verdict: **{found.verdict.value}**. The concept's own name is drawn with the same prompts and "
        f"seeds after each manipulation: base {found.base.rate}, erased as it is {found.erased.rate}; preset "
        f"{code(found.preset)}, {made.steps} sampling steps, guidance {made.guidance_scale:g}. The p-value "
        "compares each row with the erasure as it is."
    )
