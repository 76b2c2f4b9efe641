"""The embedded pipeline's model card, rendered from its report and nothing else."""

from diffusers_erasure.embedded.recipe.artwork import SOURCES
from diffusers_erasure.embedded.recipe.measure import EmbeddedReport, Figure
from diffusers_erasure.embedded.vocabulary import COLOURS, CONCEPTS, GROUPS, STYLES


def render_card(report: EmbeddedReport) -> str:
    """Return the card as Markdown."""
    groups = [
        f"- {group}: " + ", ".join(e.name for e in CONCEPTS.values() if e.group == group) for group in GROUPS
    ]
    weak = sorted(report.per_concept.items(), key=lambda item: item[1][0] / item[1][1])[:6]
    licences = sorted({source.licence for source in SOURCES.values() if source.trains})
    return "\n".join(
        [
            "# The embedded pipeline",
            "",
            "A small Stable Diffusion 1.x-shaped pipeline (CLIP text encoder of width 160 with 77 tokens, UNet of",
            "9.1 M parameters, f = 4 autoencoder, 64 x 64 pixels), trained from nothing on emoji artwork. It is the",
            "model on which this package shows, tests and measures erasures offline. It stands in for Stable",
            "Diffusion; it does not predict figures on it.",
            "",
            f"Draw with {report.steps} DDIM steps and guidance {report.guidance_scale:g}.",
            "",
            "## What it can draw",
            "",
            *groups,
            "",
            f"in the styles {', '.join(STYLES)}, on backgrounds of {', '.join(COLOURS)}.",
            "",
            "## What was measured",
            "",
            "`diffusers-erasure embedded evaluate --work_dir runs/embedded --write_card` wrote this page. The judges",
            "are the ones in `judges/`; intervals are Wilson 95 %.",
            "",
            "| figure | measured | interval | goal |",
            "|---|---|---|---|",
            *(_row(figure, goal=True) for figure in report.figures),
            "",
            "Observed, without a goal:",
            "",
            "| figure | measured | interval |",
            "|---|---|---|",
            *(_row(figure, goal=False) for figure in report.observations),
            "",
            "## Where it fails",
            "",
            "- It draws prototypes of the glyphs that it was trained on; it does not invent.",
            "- Weakest concepts (hits of pictures asked for): "
            + ", ".join(f"{name} {hits}/{asked}" for name, (hits, asked) in weak)
            + ".",
            "- Most frequent confusions (asked, seen, times): "
            + ("; ".join(f"{a}, {b}, {times}" for a, b, times in report.confused) or "none")
            + ".",
            "- Two-object prompts work only side by side, and less often than one object; three objects do not.",
            "- Words that it never saw draw some object of the vocabulary.",
            "- The judges know the artwork of these families. On a family that trained nothing they are much worse",
            "  (see above): they judge this pipeline's pictures, not emoji in general.",
            "",
            "## How it was made",
            "",
            "`torchrun --nproc_per_node 2 -m diffusers_erasure.embedded.train --work_dir runs/embedded`, on two CPU",
            "cores. The autoencoder's run that ships was planned for 7,500 steps and shortened to 3,600 after step",
            "2,160, when it had passed its goal; the recipe plans 3,600 from the start.",
            "",
            f"Artwork under {', '.join(licences)}: see `ATTRIBUTION.md`. Weights: sha256 in `SHA256SUMS`.",
            "",
        ]
    )


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
