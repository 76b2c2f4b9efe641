"""The page of the benchmark, made of one file (`stored`): README.md, a page for each concept, two pictures.

Everything here is a function of that file, so a page can be made again without the runs, and a test can check
that the page that is published says what the file says.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from diffusers_erasure.durable import write_whole
from diffusers_erasure.errors import MissingDependencyError
from diffusers_erasure.evaluation.report import SCOPE

from .checks import LEVEL, LIKE, NAMES
from .claims import Settled, Status, settle
from .figures import Figures
from .profiles import Profile, profile
from .recommendation import Recommendation, recommend, sentences
from .stored import Stored
from .tables import (
    Shown,
    cost_table,
    excess_table,
    kept_table,
    legend,
    parts_table,
    plain_table,
    typed_table,
    worst_table,
)

PAGE, STORED, RESULTS = "README.md", "benchmark.json", "results.json"
RETENTION_PLOT, ATTACKS_PLOT = "robustness-retention.png", "attacks.png"
FULL = "full"


def write_page(stored: Stored, folder: Path) -> list[Path]:
    """Write page, pictures and both files.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    from diffusers_erasure.evaluation.curves import plot_available

    if not plot_available():
        raise MissingDependencyError(
            "the page of the benchmark has pictures, and matplotlib is not installed; expected it; install "
            "diffusers-erasure[eval]"
        )
    files = {STORED: stored.to_json(), **texts(stored)}
    contents = {name: text.encode() for name, text in files.items()} | pictures(stored)
    for name, content in contents.items():
        write_whole(folder / name, content)
    return [folder / name for name in contents]


def pictures(stored: Stored) -> dict[str, bytes]:
    """Both pictures; none without a cell."""
    from .plots import attacks_plot, retention_plot

    if not stored.cells:
        return {}
    shown = _shown(stored, profile(stored.profile))
    return {RETENTION_PLOT: retention_plot(shown), ATTACKS_PLOT: attacks_plot(shown)}


def texts(stored: Stored) -> dict[str, str]:
    """The text files by name."""
    chosen = profile(stored.profile)
    settled, found = settle(Figures.of(stored)), recommend(Figures.of(stored), chosen)
    pages = {f"{_file(one)}.md": concept_page(stored, chosen, one) for one in chosen.concepts}
    return {
        PAGE: page(stored, chosen, settled, found),
        **(pages if len(chosen.concepts) > 1 else {}),
        RESULTS: results(settled, found),
    }


def page(stored: Stored, chosen: Profile, settled: Sequence[Settled], found: Sequence[Recommendation]) -> str:
    """README.md."""
    shown = _shown(stored, chosen)
    links = ", ".join(f"[{one}]({_file(one)}.md)" for one in chosen.concepts)
    parts = [
        "# What each method erases, keeps, lets come back, and costs\n",
        _head(stored, chosen),
        "## Which method should I use?\n",
        "\n\n".join(sentences(found)) + "\n",
        _rule_of_recommendation(),
        f"![Robustness against retention, a panel for each concept]({RETENTION_PLOT})\n"
        if stored.cells
        else "",
        _picture_note() if stored.cells else "",
        "## All concepts together\n",
        f"Each concept by itself: {links}.\n" if len(chosen.concepts) > 1 else "",
        _tables(shown),
        f"![Methods by attacks]({ATTACKS_PLOT})\n" if stored.cells else "",
        *(_section(stored, profile(name)) for name in chosen.sections),
        _claims(settled, whole=chosen.name == FULL),
        _method(stored, chosen),
    ]
    return "\n".join(part for part in parts if part)


def concept_page(stored: Stored, chosen: Profile, concept: str) -> str:
    """The page of one concept."""
    shown = Shown(Figures.of(stored), chosen.variants, (concept,), chosen.attacks)
    back = f"Back to [all concepts]({PAGE}), where words and columns are explained."
    return f"# {concept}\n\n{back}\n\n{_tables(shown)}"


def _shown(stored: Stored, chosen: Profile) -> Shown:
    return Shown(Figures.of(stored), chosen.variants, chosen.concepts, chosen.attacks)


def _head(stored: Stored, chosen: Profile) -> str:
    command = f"diffusers-erasure bench --profile {chosen.name}"
    return (
        f"Profile `{chosen.name}`: {chosen.summary}. **{stored.finished} of {stored.planned} cells are "
        f"finished**; a cell is one method, concept and training seed. `–` is not measured yet. A rate "
        f"is k/n with its 95 % interval in percent. {SCOPE}\n\n"
        f"```bash\n{command}\n{command} --report\n```\n"
    )


def _rule_of_recommendation() -> str:
    return (
        f"The rule: of the methods that keep what should stay within {LIKE:g} points of the base and broke "
        "no model, the one with the lowest worst case; and the one with the shortest training among those "
        "inside its 95 % interval. There is no answer until every method is measured on every concept.\n"
    )


def _picture_note() -> str:
    return (
        "Low and right is good. Bars are 95 % intervals; the grey dash is what random tokens bring back with "
        f"as many judged pictures; the dotted line is {LIKE:g} points of retention; a hollow mark is a "
        "degenerate training, which is not robust but broken. Marks that would cover each other are moved a "
        "little to the right.\n"
    )


def _tables(shown: Shown) -> str:
    if not shown.groups():
        return "Not measured yet.\n"
    tables = (
        ("Without an attack, pictures in which the judge sees the concept:", plain_table),
        ("Prompts that attacks bring back which can be typed, and luck:", typed_table),
        ("The same for attacks that need vectors in place of tokens, and the worst case:", worst_table),
        (
            "Attacks beside random tokens with as many judged pictures, in points, with the exact McNemar p; "
            f"a star marks p < {LEVEL:g} after Holm over the table:",
            excess_table,
        ),
        ("What should stay:", kept_table),
        ("Cost, and how trainings of other seeds differ:", cost_table),
    )
    return "\n".join(f"{words}\n\n{table(shown)}" for words, table in tables)


def _section(stored: Stored, chosen: Profile) -> str:
    shown = _shown(stored, chosen)
    body = parts_table(shown) if shown.groups() else "Not measured yet.\n"
    head = f"## {chosen.summary[0].upper()}{chosen.summary[1:]}\n"
    together = " together" if len(chosen.concepts) > 1 else ""
    return f"{head}\nProfile `{chosen.name}`, on {', '.join(chosen.concepts)}{together}.\n\n{body}"


def _claims(settled: Sequence[Settled], *, whole: bool) -> str:
    shown = [one for one in settled if whole or one.status is not Status.OPEN]
    if not shown:
        return ""
    counts = ", ".join(f"{sum(one.status is status for one in shown)} {status.value}" for status in Status)
    lines = [
        "## What the papers claim\n",
        f"{counts}. A claim is confirmed if each of its rules holds. The rules stood in the code before the "
        "figures did; p is adjusted for every test of this list (Holm).\n",
    ]
    for paper in dict.fromkeys(one.claim.paper for one in shown):
        lines.append(f"### {paper[0].upper()}{paper[1:]}\n")
        lines.extend(_claim(one) for one in shown if one.claim.paper == paper)
        lines.append("")
    return "\n".join(lines)


def _claim(one: Settled) -> str:
    where = "; ".join(part for part in (one.claim.place, ", ".join(one.claim.concepts)) if part)
    reasons = []
    for rule, holds, words, adjusted in one.reasons:
        answer = "open" if holds is None else "yes" if holds else "no"
        p = "" if adjusted is None else f", adjusted {adjusted:.2g}"
        reasons.append(f"  - {rule}: {answer} ({words}{p})")
    return "\n".join((f"- **{one.status.value}**: {one.claim.words} ({where})", *reasons))


def _method(stored: Stored, chosen: Profile) -> str:
    words = "\n".join(f"- *{name}*: {meaning}" for name, meaning in legend().items())
    return (
        "## How it was measured\n\n"
        f"{words}\n\n"
        f"Every cell runs `train`, `evaluate --n {stored.prompts}` and `attack --n {stored.prompts}` with "
        f"quick budgets ({', '.join(NAMES[one] for one in chosen.attacks)}), training seeds "
        f"{', '.join(map(str, stored.seeds))}, with noise seeds of its own for each training seed; prompts "
        "and seeds are the same for every method. Rates are k of n with Wilson 95 % intervals; the prompts "
        "of one training share its weights, so the rates of single trainings stand beside them. A method "
        "without figures for some concepts is pooled over those that it has: look at *trainings* before "
        "comparing. Luck is cut to the judged pictures of the attack beside it. Rates without an attack are "
        "compared by Fisher's exact test, since their pictures are counted, not paired. Seconds are wall "
        "time of one thread on a machine that did other work; the first AdvUnlearn training of a folder also "
        "makes the pool of what stays, which the others use. "
        f"All of it is computed from [{STORED}]({STORED}).\n"
    )


def results(settled: Sequence[Settled], found: Sequence[Recommendation]) -> str:
    """Claims and recommendation as JSON."""
    claims = [
        {
            "key": one.claim.key,
            "paper": one.claim.paper,
            "place": one.claim.place,
            "claim": one.claim.words,
            "concepts": one.claim.concepts,
            "status": one.status.value,
            "rules": [
                {"rule": rule, "holds": holds, "figures": words, "holm_p": adjusted}
                for rule, holds, words, adjusted in one.reasons
            ],
        }
        for one in settled
    ]
    answers: list[Mapping[str, object]] = [
        {
            "against": one.against,
            "most robust": None if one.robust is None else one.robust.label,
            "cheapest not shown to be worse": None if one.cheap is None else one.cheap.label,
            "missing": one.missing,
            "keep too little": one.dropped,
        }
        for one in found
    ]
    return json.dumps({"claims": claims, "recommendation": answers}, indent=1, ensure_ascii=False) + "\n"


def _file(concept: str) -> str:
    return concept.replace(" ", "-")
