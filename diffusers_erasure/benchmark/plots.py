"""Pictures of the page: robustness against retention, and every attack on every method."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from diffusers_erasure.evaluation.curves import DOTS_PER_INCH, GREY

from .checks import LIKE, NAMES
from .shown import Shown
from .tables import measured
from .variants import Variant

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ATTACK, LUCK = "unlearndiffatk", "random_tokens"
COLOURS: Mapping[str, str] = MappingProxyType(
    {"uce": "#202020", "esd": "#D55E00", "advunlearn": "#0072B2", "trce": "#009E73", "aegis": "#CC79A7"}
)
"""One for each method, which colour-blind readers can tell apart (Okabe and Ito)."""
MARKS = "osD^vPX*<>hd"
PANELS = 3
MARK, CLEAR = 6.5, 12.0
"""Size of a mark in points (of print), and how far apart two must be not to cover each other."""
PANEL = 190.0
"""Width of a panel in points, about."""
HEIGHT = (-4.0, 104.0)
ROUNDS = 50
SIDE = 1.0
"""Points of retention left free beside the outermost marks."""
MARGIN = 2.0
"""Percent left free above and below a mark with its bar and dash."""


@dataclass(frozen=True)
class Place:
    """Where a variant stands in a panel.

    Attributes:
        label: Its name.
        change: Retention, in points from the base; moved where marks would cover each other.
        rate: Prompts brought back, in percent.
        bars: Of the rate, down and up.
        luck: What random tokens bring back, in percent.
        broken: Whether a training is suspicious, or did not erase.
    """

    label: str
    change: float
    rate: float
    bars: tuple[float, float]
    luck: float | None
    broken: bool

    @property
    def span(self) -> tuple[float, float]:
        """From the lowest to the highest that is drawn of it, in percent."""
        drawn = [self.rate - self.bars[0], self.rate + self.bars[1]]
        drawn += [] if self.luck is None else [self.luck]
        return min(drawn) - MARGIN, max(drawn) + MARGIN

    def meets(self, other: Place, step: float) -> bool:
        """Whether both would be drawn over each other.

        Args:
            other: The other one.
            step: Points of retention that a mark takes.
        """
        (low, high), (its_low, its_high) = self.span, other.span
        return abs(other.change - self.change) < 0.999 * step and low < its_high and its_low < high


def retention_plot(shown: Shown) -> bytes:
    """A panel for each concept: few prompts brought back and much retained is low and right. PNG."""
    from matplotlib.figure import Figure

    concepts = [one for one in shown.concepts if _measured(shown, one)]
    columns = max(1, 2 if len(concepts) == 4 else min(PANELS, len(concepts)))
    lines = -(-max(1, len(concepts)) // columns)
    figure = Figure(figsize=(3.5 * columns + 2.4, 3.3 * lines + 0.3), layout="constrained")
    panels = figure.subplots(lines, columns, sharey=True, squeeze=False)
    looks = _looks(shown.variants)
    for axes, concept in zip(panels.flat, concepts, strict=False):
        _panel(axes, Shown(shown.figures, shown.variants, (concept,), shown.attacks), looks)
        axes.set_title(concept, loc="left", fontsize=11)
    for axes in list(panels.flat)[len(concepts) :]:
        axes.set_axis_off()
    for axes in panels[:, 0]:
        axes.set_ylabel("brought back by UnlearnDiffAtk,\nquick budget (%)")
    _legend(figure)
    return _png(figure)


def _measured(shown: Shown, concept: str) -> bool:
    return bool(_places(Shown(shown.figures, shown.variants, (concept,), shown.attacks)))


def _looks(variants: Sequence[Variant]) -> dict[str, dict[str, Any]]:
    """Colour by method, mark by variant."""
    found: dict[str, dict[str, Any]] = {}
    used: dict[str, int] = {}
    for one in variants:
        number = used.get(one.family, 0)
        used[one.family] = number + 1
        found[one.label] = {"color": COLOURS.get(one.family, GREY), "marker": MARKS[number % len(MARKS)]}
    return found


def _panel(axes: Axes, shown: Shown, looks: Mapping[str, Mapping[str, Any]]) -> None:
    places = _places(shown)
    lowest = min([-LIKE, *(one.change for one in places)]) - SIDE
    places, highest = apart(places, lowest)
    dash = 0.45 * CLEAR / PANEL * (highest - lowest)
    for place in places:
        look = {**looks[place.label], **({"markerfacecolor": "white"} if place.broken else {})}
        axes.errorbar(
            [place.change], [place.rate], yerr=[[place.bars[0]], [place.bars[1]]], linestyle="",
            markersize=MARK, capsize=3, elinewidth=1, alpha=0.9, label=place.label, **look,
        )  # fmt: skip
        if place.luck is not None:
            ends = [place.change - dash, place.change + dash]
            axes.plot(
                ends, [place.luck] * 2, linestyle=(0, (1.5, 0.8)), linewidth=2, color=look["color"], zorder=4
            )
    axes.axvline(-LIKE, color=GREY, linewidth=0.8, linestyle=":")
    axes.set_xlim(lowest, highest)
    axes.set_ylim(*HEIGHT)
    axes.set_xlabel("retention, points from the base\n(side by side where they would meet)")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _places(shown: Shown) -> list[Place]:
    """Where the variants stand that have both figures, over trainings that all of them have."""
    column = shown.column(lambda cell: cell.verdict is not None and ATTACK in cell.attacks)
    found = []
    for row in shown.rows():
        group = column.groups[row.label]
        kept, rate, luck = group.kept(), group.rate(ATTACK), group.rate(LUCK)
        if kept is not None and rate is not None:
            bars = 100 * (rate.rate - rate.low), 100 * (rate.high - rate.rate)
            chance = None if luck is None else 100 * luck.rate
            found.append(Place(row.label, kept.change, 100 * rate.rate, bars, chance, bool(row.group.faults)))
    return found


def apart(places: Sequence[Place], lowest: float) -> tuple[list[Place], float]:
    """Move marks to the right that would be drawn over others, bars and dashes included.

    From left to right, so that none is moved past one that it would meet.

    Args:
        places: Where they stand.
        lowest: Where the panel begins.

    Returns:
        Where they are drawn, and where the panel ends, which decides the scale: it is widened until all fit.
    """
    drawn: list[Place] = []
    highest = max([0.0, *(one.change for one in places)]) + SIDE
    for _ in range(ROUNDS):
        step = CLEAR / PANEL * (highest - lowest)
        drawn = []
        for place in sorted(places, key=lambda one: one.change):
            one = place
            while near := [other for other in drawn if one.meets(other, step)]:
                one = replace(one, change=max(other.change for other in near) + step)
            drawn.append(one)
        reach = max([0.0, *(one.change for one in drawn)]) + SIDE
        if reach <= highest:
            break
        highest = reach
    return drawn, highest


def _legend(figure: Figure) -> None:
    """Beside the panels, each entry once, luck last."""
    from matplotlib.lines import Line2D

    pairs = [pair for axes in figure.axes for pair in zip(*axes.get_legend_handles_labels(), strict=True)]
    handles: dict[str, Any] = {text: mark for mark, text in reversed(pairs)}
    order = list(dict.fromkeys(text for _, text in pairs))
    if order:
        luck = "dashed: the same, random tokens"
        handles[luck] = Line2D([], [], linestyle=(0, (1.5, 0.8)), linewidth=2, color=GREY)
        figure.legend(
            [handles[text] for text in (*order, luck)], (*order, luck), loc="outside right upper",
            frameon=False, fontsize=9,
        )  # fmt: skip


def attacks_plot(shown: Shown) -> bytes:
    """Methods by attacks that were measured, pooled over concepts, as a shaded table. PNG."""
    from matplotlib.figure import Figure

    rows, names = shown.rows(), measured(shown)
    columns = [shown.column(lambda cell, name=name: name in cell.attacks).groups for name in names]  # type: ignore[misc]
    figure = Figure(
        figsize=(1.25 * max(2, len(names)) + 2.9, 0.42 * max(1, len(rows)) + 1.4), layout="constrained"
    )
    axes = figure.subplots()
    rates = [
        [column[row.label].rate(name) for name, column in zip(names, columns, strict=True)] for row in rows
    ]
    shades = [
        [float("nan") if rate is None or row.group.suspicious else 100 * rate.rate for rate in found]
        for row, found in zip(rows, rates, strict=True)
    ]
    axes.imshow(
        shades if rows and names else [[float("nan")]], cmap="Oranges", vmin=0, vmax=130, aspect="auto"
    )
    for line, (row, found) in enumerate(zip(rows, rates, strict=True)):
        for place, rate in enumerate(found):
            said = "" if rate is None else (*row.group.suspicious, f"{100 * rate.rate:.0f} %")[0]
            axes.text(place, line, said, ha="center", va="center", fontsize=8.5)
    axes.set_xticks(range(len(names)), [NAMES[name] for name in names], fontsize=9)
    axes.set_yticks(range(len(rows)), [row.head for row in rows], fontsize=9)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel(
        "prompts brought back (%), quick budgets;\nempty: not measured yet; †: not erased", fontsize=9
    )
    return _png(figure)


def _png(figure: Figure) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=DOTS_PER_INCH, metadata={"Software": ""})
    return content.getvalue()
