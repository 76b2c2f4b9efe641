"""How the closed form grows: with the number of prompt pairs, and with the width of the text states.

    python -m benchmarks.closed_form_growth --output docs/images/closed-form-growth.png

On the left, SD 1.4's shapes with random weights (`closed_form`): 25 to 800 pairs are encoded, solved and
applied to its 32 projections. On the right, 200 pairs at widths from 256 to 2048 (SDXL's): the encoder has
one layer there and is not shown, since how deep it is would be arbitrary; the projections are as many, and
give as many numbers, as SD 1.4's.

CPU seconds, on one thread unless told otherwise: other work on the machine changes them little. Each point is
the least of several runs.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from benchmarks.closed_form import ANCHOR, FRAMES, SUBJECTS, WIDTH, fast, text_encoder, tokenizer
from diffusers_erasure.diffusion import DiffusionComponents, TextProjection
from diffusers_erasure.durable import write_whole
from diffusers_erasure.evaluation.curves import DOTS_PER_INCH, PALETTE
from diffusers_erasure.prompts import PromptPair
from diffusers_erasure.training.closed_form import PriorStatistics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COUNTS = (25, 50, 100, 200, 400, 800)
WIDTHS = (256, 512, 768, 1024, 1536, 2048)
PAIRS = 200
SUFFIXES = ("", " at night", " in the rain", " by the sea")
"""Of prompts, so that there are enough; their words are tokens already."""
OUTPUTS = (320,) * 5 + (640,) * 5 + (1280,) * 6
"""Numbers that each cross-attention layer of SD 1.4's UNet gives."""
Seconds = Mapping[str, float]
"""CPU seconds by phase."""


def many_pairs(count: int) -> list[PromptPair]:
    """So many different pairs, at most 800.

    Raises:
        ValueError: There are not so many.
    """
    every = [
        PromptPair(frame.format(subject) + suffix, frame.format(ANCHOR) + suffix, subject, ANCHOR)
        for suffix in SUFFIXES
        for frame in FRAMES
        for subject in SUBJECTS
    ]
    if not 1 <= count <= len(every):
        raise ValueError(f"{count} pairs were asked for; expected 1 to {len(every)}; ask for fewer")
    return every[:count]


def projections(width: int) -> list[TextProjection]:
    """Random keys and values of SD 1.4's cross-attention, for text states of a width."""
    return [
        TextProjection(f"{layer}.to_{kind}", torch.randn(size, width) / width**0.5)
        for layer, size in enumerate(OUTPUTS)
        for kind in "kv"
    ]


def measure(components: DiffusionComponents, counts: Sequence[int], repeats: int) -> dict[int, Seconds]:
    """Seconds of each phase by number of pairs: of each, the least of some runs.

    Args:
        components: Whose text encoder.
        counts: Numbers of pairs.
        repeats: Runs of each.
    """
    layers = projections(components.text_width)
    prior = PriorStatistics.of(torch.randn(4000, components.text_width))
    found: dict[int, Seconds] = {}
    for count in counts:
        watches = [fast(components, layers, many_pairs(count), prior)[2] for _ in range(repeats)]
        found[count] = {
            phase: min(watch.phases[phase][1] for watch in watches) for phase in watches[0].phases
        }
    return found


def plot(by_pairs: Mapping[int, Seconds], by_width: Mapping[int, Seconds]) -> bytes:
    """Both panels as a PNG file."""
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    _panel(left, by_pairs, ("encode", "solve", "apply"))
    left.set_xlabel(f"prompt pairs, at width {WIDTH}")
    left.set_ylabel("CPU seconds")
    _panel(right, by_width, ("solve", "apply"))
    right.set_xlabel(f"width of the text states, {PAIRS} pairs")
    figure.suptitle("Closed form at SD 1.4's shapes", x=0.01, ha="left", fontsize=12)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=DOTS_PER_INCH, metadata={"Software": ""})
    return content.getvalue()


def _panel(axes: Axes, found: Mapping[int, Seconds], phases: Sequence[str]) -> None:
    places = sorted(found)
    for phase in phases:
        colour = PALETTE[("encode", "solve", "apply").index(phase)]
        seconds = [found[place][phase] for place in places]
        axes.plot(places, seconds, color=colour, marker="o", markersize=4, linewidth=1.6, label=phase)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(places, [str(place) for place in places])
    axes.minorticks_off()
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=9, frameon=False)


def _show(title: str, found: Mapping[int, Seconds]) -> None:
    phases = list(next(iter(found.values())))
    table = Table(title, *phases, box=None)
    for place, seconds in found.items():
        table.add_row(str(place), *(f"{seconds[phase]:.3f}" for phase in phases))
    Console().print(table)


def _components(width: int, layers: int) -> DiffusionComponents:
    """A text encoder with its tokenizer; the rest is not needed."""
    encoder = text_encoder(width, layers)
    return DiffusionComponents(tokenizer(), encoder, None, None, None)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and write the figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--repeats", type=int, default=2, help="runs of each point")
    parser.add_argument("--counts", nargs="+", type=int, default=list(COUNTS), help="numbers of pairs")
    parser.add_argument("--widths", nargs="+", type=int, default=list(WIDTHS), help="of the text states")
    parser.add_argument("--output", type=Path, default=Path("outputs/closed-form-growth.png"))
    given = parser.parse_args(argv)
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    by_pairs = measure(_components(WIDTH, 12), given.counts, given.repeats)
    _show("pairs", by_pairs)
    by_width = {
        width: measure(_components(width, 1), [PAIRS], given.repeats)[PAIRS] for width in given.widths
    }
    _show("width", by_width)
    write_whole(given.output, plot(by_pairs, by_width))
    Console().print(f"wrote {given.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
