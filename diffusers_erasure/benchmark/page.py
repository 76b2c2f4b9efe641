"""The page of the benchmark, made of one file (`stored`): README.md, a page for each concept, two pictures.

Everything here is a function of that file, so a page can be made again without the runs, and a test can check
that the page that is published says what the file says.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from diffusers_erasure.durable import write_whole
from diffusers_erasure.errors import MissingDependencyError
from diffusers_erasure.evaluation.report import SCOPE

from .answers import LEVEL
from .budgets import budget_rows, tokens_of
from .checks import LIKE, NAMES
from .figures import Figures
from .profiles import Profile, profile
from .recommendation import Recommendation, recommend, sentences
from .settling import RULES_CHANGED, Settled, Status, marks, settle
from .shown import ALL, MARK, Shown
from .stored import MOST_LEFT, Stored
from .tables import (
    Table,
    cost_table,
    excess_table,
    kept_table,
    legend,
    markdown,
    parts_table,
    plain_table,
    typed_table,
    worst_table,
)

PAGE, STORED, RESULTS = "README.md", "benchmark.json", "results.json"
RETENTION_PLOT, ATTACKS_PLOT = "robustness-retention.png", "attacks.png"
FULL = "full"
IN_PLACE = ("p4d", "ring_a_bell")
"""Attacks whose tokens stand in the place of the prompt."""


def write_page(stored: Stored, folder: Path) -> list[Path]:
    """Write page, pictures and both files.

    Raises:
        MissingDependencyError: matplotlib or scipy is not installed.
    """
    missing = [name for name in ("matplotlib", "scipy") if find_spec(name) is None]
    if missing:
        raise MissingDependencyError(
            f"the page of the benchmark has pictures and tests, and {' and '.join(missing)} is not "
            "installed; expected it; install diffusers-erasure[eval]"
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
        *(_section(stored, profile(name), settled) for name in chosen.sections),
        _claims(settled, whole=chosen.name == FULL),
        _budgets(chosen),
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
    command = "diffusers-erasure bench"
    commands = (
        f"{command} --profile {chosen.name}  # everything anew",
        f"{command} --profile {chosen.name} --known {STORED}  # what is missing here",
        f"{command} --stored {STORED}  # this page again, from the file beside it",
    )
    lines = "\n".join(commands)
    return (
        f"Profile `{chosen.name}`: {chosen.summary}. A cell is one method, concept and training seed: of "
        f"{stored.planned}, **{len(stored.cells)} have figures** and **{stored.finished} are finished**, "
        "having met every attack that they are to meet. `–` is not measured yet. A rate is k/n with its 95 % "
        f"interval in percent. {SCOPE}\n\n```bash\n{lines}\n```\n"
    )


def _rule_of_recommendation() -> str:
    return (
        f"The rule: of the methods that keep what should stay within {LIKE:g} points of the base, erase "
        "every concept and have no suspicious measurement, the one with the lowest worst case; and the one "
        "whose training takes the fewest UNet evaluations among those that are not shown to be brought back "
        f"more often (sign flips over trainings, p < {LEVEL:g}). There is no answer until every method is "
        "measured on every concept.\n"
    )


def _picture_note() -> str:
    return (
        "Prompts that UnlearnDiffAtk with its quick budget brings back, against retention: low and right is "
        "good. Bars are 95 % intervals of the pictures; the dashed line in a method's colour is what random "
        f"tokens bring back with as many judged pictures; the dotted line is {LIKE:g} points of retention; a "
        "hollow mark is a degenerate training, which is not robust but broken, or one that did not erase. "
        "Marks whose bars or dashes would cover each other are moved to the right.\n"
    )


def _tables(shown: Shown) -> str:
    if not shown.rows():
        return "Not measured yet.\n"
    tables = (
        ("Without an attack, pictures in which the judge sees the concept:", plain_table),
        ("Prompts that attacks bring back which can be typed, and luck:", typed_table),
        ("The same for attacks that need vectors in place of tokens, and the worst case:", worst_table),
        (
            "Attacks beside random tokens with as many judged pictures, in points, with the exact McNemar p; "
            f"a star marks p < {LEVEL:g} after Holm over the table:",
            _excess_with_note,
        ),
        ("What should stay:", kept_table),
        ("Cost, and how trainings of other seeds differ:", cost_table),
    )
    parts: list[str] = []
    over = ALL
    for words, make in tables:
        table = make(shown)
        marked = "" if parts else _not_erased(shown)
        parts.append(f"{words}\n\n{table.text}{marked}{_over(table.over, since=over)}")
        over = table.over
    return "\n".join(parts)


def _not_erased(shown: Shown) -> str:
    """What the mark means, where a row has it."""
    if all(row.head == row.label for row in shown.rows()):
        return ""
    return (
        f"\n{MARK} not erased: the judge still sees it in more than {100 * MOST_LEFT:.0f} % of the own-name "
        "pictures of a training, so there was little to bring back.\n"
    )


def _over(over: str, *, since: str = ALL) -> str:
    """Over which trainings a table compares, unless the one above it says the same."""
    return "" if over == since else f"\nRows are compared, here and below, over {over}.\n"


def _excess_with_note(shown: Shown) -> Table:
    """The table, and what luck beside it is not."""
    table = excess_table(shown)
    elsewhere = [f"{NAMES[one]} ({tokens_of(one)} tokens)" for one in IN_PLACE if one in shown.attacks]
    if not elsewhere:
        return table
    note = (
        f"\nRandom tokens stand before the prompt, while {' and '.join(elsewhere)} put "
        "others in its place: beside these, luck kept the prompt that they gave up. p is of the pictures of "
        "these trainings, and says nothing of others.\n"
    )
    return Table(table.text + note, table.over)


def _section(stored: Stored, chosen: Profile, settled: Sequence[Settled]) -> str:
    shown = _shown(stored, chosen)
    agrees = marks(settled, [one.slug for one in chosen.variants])
    table = parts_table(shown, agrees)
    body = f"{table.text}{_not_erased(shown)}{_over(table.over)}" if shown.rows() else "Not measured yet.\n"
    head = f"## {chosen.summary[0].upper()}{chosen.summary[1:]}\n"
    together = " together" if len(chosen.concepts) > 1 else ""
    return f"{head}\nProfile `{chosen.name}`, on {', '.join(chosen.concepts)}{together}.\n\n{body}"


def _budgets(chosen: Profile) -> str:
    """How hard each attack tried, beside what its paper or code does."""
    columns = ("attack", "quick, at most", "published", "share", "judged pictures")
    return (
        "## How hard the attacks tried\n\nOf each prompt, with the quick budgets of this page and with those "
        f"of papers and code:\n\n{markdown(columns, budget_rows(chosen.attacks))}\n"
        "A method that resists these may fall to more. AdvUnlearn's settings for the embedded pipeline were "
        "chosen under quick UnlearnDiffAtk, on other prompts and seeds, so that attack flatters it.\n"
    )


def _claims(settled: Sequence[Settled], *, whole: bool) -> str:
    shown = [one for one in settled if whole or one.status is not Status.OPEN]
    if not shown:
        return ""
    counts = ", ".join(f"{status}: {sum(one.status is status for one in shown)}" for status in Status)
    lines = [
        "## What the papers claim\n",
        f"{counts}.\n",
        "A claim is confirmed if each of its rules holds. Two variants are compared training by training, "
        "by sign flips; p is adjusted for every test that is planned for this list (Holm), with p = 1 for "
        "those that are open. Where too few trainings are planned for a test, a claim *agrees with the "
        "paper* if at least two trainings go its way and none the other. What is compared with a broken "
        f"model, or with one that still shows the concept in more than {100 * MOST_LEFT:.0f} % of its own "
        f"pictures, is *undecided*. Intervals are Student's t over trainings. {RULES_CHANGED}\n",
    ]
    for paper in dict.fromkeys(one.claim.paper for one in shown):
        lines.append(f"### {paper[0].upper()}{paper[1:]}\n")
        lines.extend(_claim(one) for one in shown if one.claim.paper == paper)
        lines.append("")
    return "\n".join(lines)


def _claim(one: Settled) -> str:
    where = "; ".join(part for part in (one.claim.place, ", ".join(one.claim.concepts)) if part)
    reasons = []
    for reason in one.reasons:
        p = "" if reason.adjusted is None else f", adjusted {reason.adjusted:.2g}"
        reasons.append(f"  - {reason.rule}: {reason.holds} ({reason.words}{p})")
    return "\n".join((f"- **{one.status.value}**: {one.claim.words} ({where})", *reasons))


def _method(stored: Stored, chosen: Profile) -> str:
    words = "\n".join(f"- *{name}*: {meaning}" for name, meaning in legend().items())
    return (
        f"## How it was measured\n\n{words}\n\nEvery cell runs `train`, `evaluate --n {stored.prompts}` and "
        f"`attack --n {stored.prompts}` with quick budgets "
        f"({', '.join(NAMES[one] for one in chosen.attacks)}), training seeds "
        f"{', '.join(map(str, stored.seeds))}, with noise seeds of its own for each training seed; prompts "
        "and seeds are the same for every method. Rates are k of n with Wilson 95 % intervals; the prompts "
        "of one training share its weights, so these intervals are too narrow by what trainings differ in, "
        "and claims are settled by trainings instead. Luck is cut to the judged pictures of the attack "
        "beside it. Seconds are wall time of one thread on a machine that did other work; the first "
        "AdvUnlearn training of a folder also makes the pool of what stays, which the others use. All of it "
        f"is computed from [{STORED}]({STORED}).\n"
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
                {"rule": why.rule, "holds": why.holds, "figures": why.words, "holm_p": why.adjusted}
                for why in one.reasons
            ],
        }
        for one in settled
    ]
    answers: list[Mapping[str, object]] = [
        {
            "against": one.against,
            "most robust": None if one.robust is None else one.robust.label,
            "cheapest not shown to be worse": None if one.cheap is None else one.cheap.label,
            "no cheapest because": one.unknown,
            "missing": one.missing,
            "left out": one.dropped,
        }
        for one in found
    ]
    return json.dumps({"claims": claims, "recommendation": answers}, indent=1, ensure_ascii=False) + "\n"


def _file(concept: str) -> str:
    return concept.replace(" ", "-")
