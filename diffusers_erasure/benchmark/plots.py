"""Pictures of the page: robustness against retention, and every attack on every method."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from diffusers_erasure.evaluation.curves import DOTS_PER_INCH, GREY

from .checks import NAMES
from .figures import Group
from .tables import Shown
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
LIKE_BASE = -3.0
APART = 0.28
"""Points by which marks of one place are moved apart."""


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
        axes.set_ylabel("brought back by\nUnlearnDiffAtk (%)")
    _legend(figure)
    return _png(figure)


def _measured(shown: Shown, concept: str) -> bool:
    groups = (shown.figures.group(one.slug, (concept,)) for one in shown.variants)
    return any(group.kept() is not None and group.rate(ATTACK) is not None for group in groups)


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
    lowest, highest, taken = -4.0, 1.0, dict[float, int]()
    for label, group in shown.groups():
        place = _place(group)
        if place is None:
            continue
        change, rate, bars, luck = place
        moved = taken.get(round(change, 1), 0)
        taken[round(change, 1)] = moved + 1
        change += APART * moved
        lowest, highest = min(lowest, change - 1), max(highest, change + 1)
        broken = bool(group.suspicious)
        look = {**looks[label], **({"markerfacecolor": "white"} if broken else {})}
        axes.errorbar(
            [change], [rate], yerr=bars, linestyle="", markersize=7, capsize=3, elinewidth=1, alpha=0.9,
            label=label, **look,
        )  # fmt: skip
        if luck is not None:
            axes.plot(
                [change], [luck], linestyle="", marker="_", markersize=13, markeredgewidth=1.6, color=GREY,
                label="random tokens, the same", zorder=1,
            )  # fmt: skip
    axes.axvline(LIKE_BASE, color=GREY, linewidth=0.8, linestyle=":")
    axes.set_xlim(lowest, highest)
    axes.set_ylim(-3, 103)
    axes.set_xlabel("retention, points from the base")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _place(group: Group) -> tuple[float, float, list[list[float]], float | None] | None:
    """Where a group stands: retention, rate, its bars, and luck's rate."""
    kept, rate, luck = group.kept(), group.rate(ATTACK), group.rate(LUCK)
    if kept is None or rate is None:
        return None
    bars = [[100 * (rate.rate - rate.low)], [100 * (rate.high - rate.rate)]]
    return kept.change, 100 * rate.rate, bars, None if luck is None else 100 * luck.rate


def _legend(figure: Figure) -> None:
    """Beside the panels, each entry once, luck last."""
    pairs = [pair for axes in figure.axes for pair in zip(*axes.get_legend_handles_labels(), strict=True)]
    handles = {text: mark for mark, text in reversed(pairs)}
    order = sorted(handles, key=[label for _, label in pairs].index)
    order.sort(key=lambda text: text.startswith("random"))
    if order:
        figure.legend(
            [handles[text] for text in order], order, loc="outside right upper", frameon=False, fontsize=9
        )


def attacks_plot(shown: Shown) -> bytes:
    """Methods by attacks, pooled over concepts, as a shaded table. PNG."""
    from matplotlib.figure import Figure

    groups = shown.groups()
    figure = Figure(
        figsize=(1.25 * len(shown.attacks) + 2.6, 0.42 * max(1, len(groups)) + 1.4), layout="constrained"
    )
    axes = figure.subplots()
    shades = [[_shade(group, name) for name in shown.attacks] for _, group in groups]
    axes.imshow(shades or [[float("nan")]], cmap="Oranges", vmin=0, vmax=130, aspect="auto")
    for row, (_, group) in enumerate(groups):
        for column, name in enumerate(shown.attacks):
            axes.text(column, row, _cell(group, name), ha="center", va="center", fontsize=8.5)
    axes.set_xticks(range(len(shown.attacks)), [NAMES[name] for name in shown.attacks], fontsize=9)
    axes.set_yticks(range(len(groups)), [label for label, _ in groups], fontsize=9)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("prompts brought back (%), of all concepts together; empty: not measured yet", fontsize=9)
    return _png(figure)


def _shade(group: Group, attack: str) -> float:
    rate = group.rate(attack)
    return float("nan") if rate is None or group.suspicious else 100 * rate.rate


def _cell(group: Group, attack: str) -> str:
    rate = group.rate(attack)
    if rate is None:
        return ""
    return group.suspicious[0] if group.suspicious else f"{100 * rate.rate:.0f} %"


def _png(figure: Figure) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=DOTS_PER_INCH, metadata={"Software": ""})
    return content.getvalue()
