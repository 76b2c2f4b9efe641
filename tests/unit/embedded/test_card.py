"""The figures of the embedded pipeline and the card that is rendered from them."""

from __future__ import annotations

from itertools import pairwise

import pytest

from diffusers_erasure.embedded.recipe.card import render_card
from diffusers_erasure.embedded.recipe.measure import EmbeddedReport, Figure, share
from diffusers_erasure.embedded.vocabulary import COLOURS, CONCEPTS, STYLES
from diffusers_erasure.errors import EvaluationError


@pytest.fixture
def report() -> EmbeddedReport:
    """A report in which one share and one size missed their goals."""
    return EmbeddedReport(
        figures=(
            share("concept", [True] * 97 + [False] * 3, 95),
            share("style", [True] * 8 + [False] * 2, 90),
            Figure(name="PSNR", value=27.25, goal=26, unit="dB"),
            Figure(name="size", value=31.5, goal=30, unit="MB"),
        ),
        observations=(share("judges agree", [True, True, False, True], 0),),
        per_concept={name: (1 if name in {"train", "owl"} else 7, 7) for name in CONCEPTS},
        confused=(("train", "bus", 6), ("owl", "bird", 5)),
        steps=25,
        guidance_scale=4.0,
        first_seed=9_000_000,
        weights="0" * 64,
    )


def test_a_share_is_k_of_n_in_per_cent_with_wilsons_interval() -> None:
    figure = share("concept", [True] * 8 + [False] * 2, 80)
    assert (figure.k, figure.n, figure.value, figure.unit) == (8, 10, 80.0, "%")
    # Wilson 95 % for 8 of 10, from the formula by hand.
    assert figure.low == pytest.approx(49.016, abs=0.01)
    assert figure.high == pytest.approx(94.332, abs=0.01)


def test_a_share_of_nothing_is_refused() -> None:
    with pytest.raises(EvaluationError, match="0 of 0"):
        share("concept", [], 80)


@pytest.mark.parametrize(
    ("value", "goal", "unit", "reached"),
    [
        (95.0, 95.0, "%", True),
        (94.9, 95.0, "%", False),
        (26.0, 26.0, "dB", True),
        (25.9, 26.0, "dB", False),
        (30.0, 30.0, "MB", True),
        (30.1, 30.0, "MB", False),
        (12.0, 30.0, "MB", True),
    ],
)
def test_sizes_stay_under_their_goal_and_all_else_above(
    value: float, goal: float, unit: str, reached: bool
) -> None:
    assert Figure(name="x", value=value, goal=goal, unit=unit).reached is reached


def test_the_report_survives_json(report: EmbeddedReport) -> None:
    assert EmbeddedReport.model_validate_json(report.model_dump_json()) == report


def test_every_figure_stands_in_the_card_and_missed_goals_are_marked(report: EmbeddedReport) -> None:
    lines = render_card(report).splitlines()
    for row in (
        "| concept | 97.0 % (97/100) | 91.5 - 99.0 | >= 95 % |",
        "| style | 80.0 % (8/10) | 49.0 - 94.3 | >= 90 % **missed** |",
        "| PSNR | 27.2 dB |  | >= 26 dB |",
        "| size | 31.5 MB |  | <= 30 MB **missed** |",
        "| judges agree | 75.0 % (3/4) | 30.1 - 95.4 |",
    ):
        assert lines.count(row) == 1, row
    assert sum("missed" in line for line in lines) == 2


def test_the_card_says_what_it_draws_and_where_it_fails(report: EmbeddedReport) -> None:
    card = render_card(report)
    drawn, failed = card.split("## What was measured")
    assert all(name in drawn for name in (*CONCEPTS, *STYLES, *COLOURS))
    assert "Draw with 25 DDIM steps and guidance 4." in drawn
    weakest = next(line for line in failed.splitlines() if line.startswith("- Weakest concepts"))
    assert weakest == "- Weakest concepts (hits of pictures asked for): owl 1/7, train 1/7."
    assert "(asked, seen, times): train, bus, 6; owl, bird, 5." in failed


def test_the_card_gives_the_command_that_measured_it(report: EmbeddedReport) -> None:
    twice = {name: (2 * hits, 2 * asked) for name, (hits, asked) in report.per_concept.items()}
    assert "embedded evaluate --seeds 1 " in render_card(report)
    assert "embedded evaluate --seeds 2 " in render_card(report.model_copy(update={"per_concept": twice}))


def test_a_concept_that_never_failed_is_not_called_weak(report: EmbeddedReport) -> None:
    whole = {name: (asked, asked) for name, (_, asked) in report.per_concept.items()}
    card = render_card(report.model_copy(update={"per_concept": whole}))
    assert "(hits of pictures asked for): none failed." in card
    assert "train 1/7" not in card


def test_a_card_without_confusions_says_none(report: EmbeddedReport) -> None:
    card = render_card(report.model_copy(update={"confused": ()}))
    assert "(asked, seen, times): none." in card


def test_the_card_is_tidy_markdown(report: EmbeddedReport) -> None:
    card = render_card(report)
    assert card.endswith(".\n")
    assert "\n\n\n" not in card
    lines = card.splitlines()
    for before, line in pairwise(lines):
        assert not line.startswith("#") or before == "", line
        if line.startswith("|") and not before.startswith("|"):
            assert before == "", "a table needs an empty line above it"
    assert all(licence in card for licence in ("Apache-2.0", "CC-BY-4.0", "MIT"))
    assert "CC-BY-SA" not in card
