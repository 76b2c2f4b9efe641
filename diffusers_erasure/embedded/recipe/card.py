"""The embedded pipeline's model card, rendered from its report and nothing else."""

from diffusers_erasure.embedded.recipe.artwork import SOURCES
from diffusers_erasure.embedded.recipe.measure import EmbeddedReport, Figure
from diffusers_erasure.embedded.vocabulary import COLOURS, CONCEPTS, GROUPS, STYLES

_WEAKEST = 6
_HEAD = """\
# The embedded pipeline

A small Stable Diffusion 1.x-shaped pipeline (CLIP text encoder of width 160 with 77 tokens, UNet of 9.1 M
parameters, f = 4 autoencoder, 64 x 64 pixels), trained from nothing on emoji artwork. It is the model on
which this package shows, tests and measures erasures offline. It stands in for Stable Diffusion; it does not
predict figures on it."""
_MEASURED = """\
## What was measured

`diffusers-erasure embedded evaluate --seeds {seeds} --work_dir runs/embedded --write_card` wrote this page.
The judges are the ones in `judges/`; intervals are Wilson 95 %."""
_LIMITS = """\
- Two-object prompts work only side by side, and less often than one object; three objects do not.
- Words that it never saw draw some object of the vocabulary.
- The judges know the artwork of these families. On a family that trained nothing they are much worse (see
  above): they judge this pipeline's pictures, not emoji in general."""
_MADE = """\
## How it was made

`torchrun --nproc_per_node 2 -m diffusers_erasure.embedded.train --work_dir runs/embedded`, on two CPU cores.
Tokenizer, text encoder, UNet and judges are what the recipe makes; the run that ships differs from a run from
nothing in two places:

- The autoencoder is older. It was planned for 7,500 steps, shortened to 3,600 after step 2,160, when it had
  passed its goal, and learned from scenes that scattered each glyph by up to 18 pixels, before sepia and
  poster were styles.
- The UNet's first 2,700 of 9,000 steps followed the learning rates of a run of 6,500 steps."""


def render_card(report: EmbeddedReport) -> str:
    """Return the card as Markdown."""
    licences = sorted({source.licence for source in SOURCES.values() if source.trains})
    parts = [
        _HEAD,
        f"Draw with {report.steps} DDIM steps and guidance {report.guidance_scale:g}.",
        "## What it can draw",
        _vocabulary(),
        f"in the styles {', '.join(STYLES)}, on backgrounds of {', '.join(COLOURS)}.",
        _MEASURED.format(seeds=_seeds(report)),
        _table(report.figures, goal=True),
        "Observed, without a goal:",
        _table(report.observations, goal=False),
        "## Where it fails",
        _failures(report),
        _MADE,
        f"Artwork under {', '.join(licences)}: see `ATTRIBUTION.md`. Weights: sha256 in `SHA256SUMS`.",
    ]
    return "\n\n".join(parts) + "\n"


def _seeds(report: EmbeddedReport) -> int:
    return sum(asked for _, asked in report.per_concept.values()) // (len(CONCEPTS) * len(STYLES))


def _vocabulary() -> str:
    return "\n".join(
        f"- {group}: " + ", ".join(entry.name for entry in CONCEPTS.values() if entry.group == group)
        for group in GROUPS
    )


def _failures(report: EmbeddedReport) -> str:
    failed = {name: row for name, row in report.per_concept.items() if row[0] < row[1]}
    weak = sorted(failed.items(), key=lambda item: item[1][0] / item[1][1])[:_WEAKEST]
    weakest = ", ".join(f"{name} {hits}/{asked}" for name, (hits, asked) in weak) or "none failed"
    confused = "; ".join(f"{asked}, {seen}, {times}" for asked, seen, times in report.confused) or "none"
    return "\n".join(
        [
            "- It draws prototypes of the glyphs that it was trained on; it does not invent.",
            f"- Weakest concepts (hits of pictures asked for): {weakest}.",
            f"- Most frequent confusions (asked, seen, times): {confused}.",
            _LIMITS,
        ]
    )


def _table(figures: tuple[Figure, ...], *, goal: bool) -> str:
    head = ["| figure | measured | interval |", "|---|---|---|"]
    if goal:
        head = ["| figure | measured | interval | goal |", "|---|---|---|---|"]
    return "\n".join([*head, *(_row(figure, goal=goal) for figure in figures)])


def _row(figure: Figure, *, goal: bool) -> str:
    measured = f"{figure.value:.1f} {figure.unit}"
    if figure.n is not None:
        measured += f" ({figure.k}/{figure.n})"
    interval = "" if figure.low is None or figure.high is None else f"{figure.low:.1f} - {figure.high:.1f}"
    row = f"| {figure.name} | {measured} | {interval} |"
    if not goal:
        return row
    sign = "<=" if figure.unit == "MB" else ">="
    return f"{row} {sign} {figure.goal:g} {figure.unit}{'' if figure.reached else ' **missed**'} |"
