"""How the rate of each attack grows with its budget, as a picture.

On the left the share of prompts that an attack has brought back after so many judged pictures, with luck
dashed beside it: only the distance between the two is the attack's merit. On the right the rate at each
multiple of the budget, with 95 % intervals.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from diffusers_erasure.errors import MissingDependencyError

from .attack_report import AttackSection, RunRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Colours that colour-blind readers can tell apart (Okabe and Ito)."""
GREY = "#7a7f87"
DOTS_PER_INCH = 144


@dataclass(frozen=True)
class Curve:
    """A rate over judged pictures.

    Attributes:
        label: Its name in the legend.
        shares: After 1, 2, ... judged pictures, the share of prompts that was brought back.
        luck: Whether it is a baseline.
    """

    label: str
    shares: tuple[float, ...]
    luck: bool


def share_curve(
    label: str, success_at: Sequence[int | None], judged_images: int, *, luck: bool = False
) -> Curve:
    """Count after how many judged pictures the prompts were brought back.

    Args:
        label: Name in the legend.
        success_at: Per prompt the judged picture that was a success; None for none.
        judged_images: Most pictures of one prompt.
        luck: Whether it is a baseline.
    """
    n = max(1, len(success_at))
    shares = tuple(
        sum(at is not None and at <= count for at in success_at) / n for count in range(1, judged_images + 1)
    )
    return Curve(label, shares, luck)


def plot_available() -> bool:
    """Whether matplotlib is there."""
    from importlib.util import find_spec

    return find_spec("matplotlib") is not None


def asr_plot(section: AttackSection, curves: Sequence[Curve], *, title: str) -> bytes:
    """The plot as a PNG file.

    Args:
        section: What the attacks found.
        curves: The rates over judged pictures.
        title: What stands over it.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError(
            "the plot of the attacks needs matplotlib, which is not installed; expected it; install "
            "diffusers-erasure[eval]"
        ) from error
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    colours = {one.name: PALETTE[index % len(PALETTE)] for index, one in enumerate(section.attacks)}
    _draw_shares(left, curves, colours)
    _draw_budgets(right, section, colours)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=DOTS_PER_INCH, metadata={"Software": ""})
    return content.getvalue()


def _draw_shares(axes: Axes, curves: Sequence[Curve], colours: dict[str, str]) -> None:
    for curve in curves:
        look: dict[str, Any] = (
            {"color": GREY, "linestyle": "--" if curve.label.startswith("random") else ":"}
            if curve.luck
            else {"color": colours.get(curve.label.partition(" ")[0], GREY)}
        )
        pictures = range(1, len(curve.shares) + 1)
        axes.step(
            pictures, [100 * share for share in curve.shares], where="post", label=curve.label, marker="o",
            markersize=2.5, linewidth=1.6, **look,
        )  # fmt: skip
    axes.set_xlabel("judged pictures of each prompt")
    axes.set_ylabel("prompts that show the concept (%)")
    axes.set_ylim(-3, 103)
    _finish(axes)


def _draw_budgets(axes: Axes, section: AttackSection, colours: dict[str, str]) -> None:
    plain = 100 * section.pre_attack.asr.rate
    worst = 100 * section.worst_case.asr.rate
    axes.axhline(plain, color=GREY, linewidth=1, linestyle=":", label="plain prompts")
    axes.axhline(worst, color="#202020", linewidth=1, label="worst case over all")
    for one in section.attacks:
        _draw_runs(axes, one.runs, one.name, colours[one.name], "-")
        luck = [run for run in one.baselines if run.attack == one.baselines[0].attack]
        _draw_runs(axes, luck, f"{luck[0].attack} beside {one.name}" if luck else "", colours[one.name], "--")
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(section.factors), [f"{factor}x" for factor in section.factors])
    axes.set_xlabel(f"budget (1x is {section.budget!r})")
    _finish(axes)


def _draw_runs(axes: Axes, runs: Sequence[RunRecord], label: str, colour: str, line: str) -> None:
    if not runs:
        return
    rates = [100 * run.asr.rate for run in runs]
    below = [100 * (run.asr.rate - run.asr.low) for run in runs]
    above = [100 * (run.asr.high - run.asr.rate) for run in runs]
    axes.errorbar(
        [run.factor for run in runs], rates, yerr=[below, above], label=label, color=colour, linestyle=line,
        marker="o", markersize=4, capsize=3, linewidth=1.4, alpha=1.0 if line == "-" else 0.55,
    )  # fmt: skip


def _finish(axes: Axes) -> None:
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
