"""The tables of an evaluation report: what was drawn before and after, fidelity, judges and rules.

Every figure is printed from the report's own records; nothing is computed here a second time.
"""

from __future__ import annotations

from diffusers_erasure.evaluation.confusion import ConfusionMatrix
from diffusers_erasure.evaluation.fidelity import Fidelity
from diffusers_erasure.evaluation.prompt_sets import Purpose
from diffusers_erasure.evaluation.proportion import Proportion
from diffusers_erasure.evaluation.records import NOT_MEASURED, NotMeasured
from diffusers_erasure.evaluation.report import EvaluationReport, Row, Verdict
from diffusers_erasure.evaluation.seeds import SeedSpread

from .markdown import Table, code, plain, short_hash

WANTED = {
    Purpose.ERASED: "low",
    Purpose.IN_DOMAIN: "high: its kind",
    Purpose.CROSS_DOMAIN: "high: the rest",
}
VERDICTS = {
    Verdict.MEASURED: "complete, and the pipeline still draws what it should",
    Verdict.DEGENERATE: "retention fell under the floor that was fixed beforehand: the erasure breaks the "
    "model, so a low rate of the concept is no merit",
    Verdict.BROKEN: "too many pictures were blank, noise or not finite: no rate here means anything",
    Verdict.HARNESS_INVALID: "judge or attacks fail where they must succeed: no rate here means anything",
}


def rows_table(report: EvaluationReport) -> Table:
    """Each prompt set with k of n and interval, before and after."""
    columns = (
        "prompts", "should be", "before", "after", "change, points", "McNemar p", "verdict", "2nd judge",
        "over seeds",
    )  # fmt: skip
    numbers = (*columns[2:6], *columns[7:])
    return Table.of(columns, (_row(row) for row in report.rows), numbers=numbers)


def _row(row: Row) -> tuple[str, ...]:
    return (
        plain(row.name),
        WANTED[row.purpose],
        percent(row.base),
        percent(row.erased),
        f"{row.difference:+.1f}",
        p_value(row.mcnemar_p),
        row.verdict.value,
        NOT_MEASURED if row.second_judge is None else percent(row.second_judge),
        spread(row.seeds),
    )


def percent(rate: Proportion | NotMeasured) -> str:
    """Counts, percent and interval."""
    return str(rate)


def p_value(p: float) -> str:
    """A p-value with two digits."""
    return f"{p:.2g}"


def spread(found: SeedSpread | NotMeasured) -> str:
    """Lowest and highest rate over groups of seeds."""
    if isinstance(found, str):
        return found
    return f"{100 * found.lowest:.1f}-{100 * found.highest:.1f} % ({len(found.groups)} groups)"


def fidelity_table(fidelity: Fidelity) -> Table:
    """How near the pictures of what should stay are to the base's own."""
    columns = (
        "kept", "pairs", "agreement", "two seeds of the base", "KID", "KID of the base itself", "FID",
        "FID of the base itself",
    )  # fmt: skip
    rows = (
        (
            plain(row.name),
            str(row.pictures),
            str(row.agreement),
            str(row.other_seed),
            str(row.kid),
            str(row.base_kid),
            number(row.fid),
            number(row.base_fid),
        )
        for row in fidelity.rows
    )
    return Table.of(columns, rows, numbers=columns[1:])


def number(value: float | NotMeasured) -> str:
    """A figure with three digits."""
    return value if isinstance(value, str) else f"{value:.3g}"


def judges_table(report: EvaluationReport) -> Table:
    """Which judges answered."""
    columns = ("judge", "version", "sha256", "threshold")
    rows = (
        (code(judge.name), plain(judge.version), short_hash(judge.sha256), f"{judge.threshold:g}")
        for judge in report.judges
    )
    return Table.of(columns, rows, numbers=("threshold",))


def errors_table(report: EvaluationReport) -> Table | None:
    """How often the judges err, on pictures of known content; None if it was not measured."""
    if isinstance(report.validation, str):
        return None
    columns = ("judge", "pictures of", "labelled by", "sees it where it is", "sees nothing where it is not")
    rows = (
        (
            code(found.judge),
            f"the {matrix.source.value} pipeline",
            matrix.labelled_by.value,
            _share(matrix, "sensitivity"),
            _share(matrix, "specificity"),
        )
        for found in report.validation
        for matrix in found.matrices
    )
    return Table.of(columns, rows, numbers=columns[3:])


def _share(matrix: ConfusionMatrix, name: str) -> str:
    found: Proportion | None = getattr(matrix, name)
    return NOT_MEASURED if found is None else str(found)


def rules_table(report: EvaluationReport) -> Table | None:
    """The rules of an honest figure; None in reports that do not list them."""
    if isinstance(report.rules, str):
        return None
    said = {True: "yes", False: "**no**"}
    rows = (
        (plain(check.rule), check.satisfied if isinstance(check.satisfied, str) else said[check.satisfied],
         plain(check.found))
        for check in report.rules
    )  # fmt: skip
    return Table.of(("rule", "satisfied", "found"), rows)


def controls(report: EvaluationReport) -> str:
    """The harness held against pictures of known content."""
    control = report.control
    return (
        f"The judge sees the concept in the base's pictures: {control.positive}. Blank and noise pictures "
        f"that are found to be broken: {control.screened}. False alarms on pictures of nothing: "
        f"{control.false_alarms}."
    )


def _per_set(report: EvaluationReport) -> str:
    """One number where every set has as many pictures, both ends where a file's sets differ."""
    counts = [row.base_pictures.planned for row in report.rows]
    return str(counts[0]) if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"


def how(report: EvaluationReport) -> str:
    """How the pictures were made."""
    made = report.settings
    width, height = made.picture_size
    failed = sum(row.base_pictures.failed + row.erased_pictures.failed for row in report.rows)
    planned = sum(row.base_pictures.planned + row.erased_pictures.planned for row in report.rows)
    scale = f" The erasure was at strength {report.erasure.scale:g}." if report.erasure.scale != 1 else ""
    prompts = f" The prompts are the evaluator's own ({plain(made.prompt_file)})." if made.prompt_file else ""
    moved = " It was transferred to another base than it was trained on." if report.erasure.transfer else ""
    return (
        f"Base and erased pipeline drew the same prompts from the same seeds: {_per_set(report)} "
        f"pictures per prompt set, {width}x{height} pixels, {made.steps} steps, guidance "
        f"{made.guidance_scale:g}, {plain(made.dtype)} on {plain(made.device)}.{prompts} {planned} pictures "
        f"were planned, {failed} failed; a failed one counts against the erasure. The erasure was "
        f"{report.erasure.state_before} before and {report.erasure.state_after} after.{scale}{moved} It took "
        f"{report.seconds:.0f} s, on {plain(report.created)}."
    )
