"""A picture of a run's log: one small panel for each number, over the steps.

Every point is drawn faintly, and over it the mean of its neighbourhood, which is what the eye should follow:
a loss at batch 1 is mostly the timestep that was drawn. Numbers that never changed stand below the panels as
text. The picture needs matplotlib, from the extra `eval`; without it a run says so once and draws none.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from diffusers_erasure.durable import whole_file

from .trackers import read_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

logger = logging.getLogger(__name__)

TITLES: Mapping[str, str] = MappingProxyType(
    {
        "loss": "loss",
        "aet": "objective of the erasure target",
        "attack": "objective of the adversarial prompt",
        "retain": "loss on the retain set",
        "cosine": "cosine of erasure and pull",
        "omega": "strength ω of the projection",
        "conflicts": "share of tensors in conflict",
        "distance": "distance to the original, |θ - θ0|",
        "gradient_norm": "norm of the gradient",
        "learning_rate": "learning rate",
        "seconds_per_step": "seconds per step",
    }
)
"""What stands over a panel; a number without an entry goes by its own name."""
_LINE, _FAINT = "#0072B2", "#9CC3DD"
_COLUMNS = 3
_WIDTH, _HEIGHT, _DOTS_PER_INCH = 3.9, 2.3, 120
_WINDOWS = 12  # a smoothed point is the mean over this share of a series
_FEW = 20  # points that are not smoothed, and drawn as dots
_DECADES = 2.0  # values that span more are drawn on a logarithmic axis


@dataclass(frozen=True)
class Series:
    """One number over the steps at which it was logged.

    Attributes:
        name: Its name in the log.
        steps: In ascending order.
        values: One for each.
    """

    name: str
    steps: tuple[int, ...]
    values: tuple[float, ...]


def read_log(path: Path) -> tuple[Series, ...]:
    """Every number of a log of JSON lines, in the order in which they first appear.

    Args:
        path: What `JsonLinesTracker` writes; a number that is not finite is left out.
    """
    found: dict[str, list[tuple[int, float]]] = {}
    for row in read_rows(path):
        for name, value in row.items():
            if name != "step" and isinstance(value, int | float) and math.isfinite(value):
                found.setdefault(name, []).append((int(row["step"]), float(value)))
    return tuple(
        Series(name, tuple(step for step, _ in points), tuple(value for _, value in points))
        for name, points in found.items()
    )


def smoothed(values: Sequence[float]) -> list[float]:
    """The mean of each value's neighbourhood, which shrinks at both ends so that it stays centred."""
    reach = max(1, len(values) // _WINDOWS // 2) if len(values) >= _FEW else 0
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    means = []
    for place in range(len(values)):
        here = min(reach, place, len(values) - 1 - place)
        means.append((sums[place + here + 1] - sums[place - here]) / (2 * here + 1))
    return means


def draw_log(log: Path) -> Path | None:
    """Draw a log beside itself, `<name>.png`.

    Args:
        log: What `JsonLinesTracker` writes.

    Returns:
        The picture; None where there is nothing to draw yet, or no matplotlib.
    """
    if find_spec("matplotlib") is None:
        _say_once()
        return None
    series = read_log(log) if log.is_file() else ()
    moving = [one for one in series if len(set(one.values)) > 1]
    if not moving:
        return None
    place = log.with_suffix(".png")
    with whole_file(place) as draft:
        _draw(moving, [one for one in series if one not in moving], draft)
    return place


_said: list[bool] = []


def _say_once() -> None:
    if not _said:
        logger.warning("the log of the run is not drawn: it needs matplotlib, from diffusers-erasure[eval]")
        _said.append(True)


def _draw(moving: Sequence[Series], constant: Sequence[Series], place: Path) -> None:
    from matplotlib.figure import Figure

    columns = min(_COLUMNS, len(moving))
    rows = -(-len(moving) // columns)
    figure = Figure(figsize=(columns * _WIDTH, rows * _HEIGHT + 0.35), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    last = max(step for one in moving for step in one.steps)
    for axes, one in zip(panels, moving, strict=False):
        _panel(axes, one, last)
    for axes in panels[len(moving) :]:
        axes.set_visible(False)
    for axes in panels[max(0, len(moving) - columns) : len(moving)]:
        axes.set_xlabel("step", fontsize=8)
    if constant:
        told = ", ".join(f"{TITLES.get(one.name, one.name)} {one.values[-1]:.4g}" for one in constant)
        figure.supxlabel(f"constant: {told}", fontsize=8, color="#555555", x=0.01, ha="left")
    figure.savefig(place, format="png", dpi=_DOTS_PER_INCH, metadata={"Software": ""})


def _panel(axes: Axes, one: Series, last: int) -> None:
    few = len(one.values) < _FEW
    axes.plot(one.steps, one.values, color=_FAINT, linewidth=0.8, marker="o" if few else "", markersize=2.5)
    axes.plot(one.steps, smoothed(one.values), color=_LINE, linewidth=1.6)
    axes.set_title(TITLES.get(one.name, one.name.replace("_", " ")), fontsize=9, loc="left")
    axes.set_xlim(0, max(last, 1))
    low, high = min(one.values), max(one.values)
    if low > 0 and math.log10(high / low) > _DECADES:
        axes.set_yscale("log")
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
