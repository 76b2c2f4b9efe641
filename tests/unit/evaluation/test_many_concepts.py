"""The benchmark of many concepts at once: nested sets, commands that exist, and figures counted right."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.many_concepts import COUNTS, Cell, cells, nested_order, report, run_cell, summary_numbers
from diffusers_erasure.cli.train import parse
from diffusers_erasure.embedded.vocabulary import CONCEPTS, THEMES
from diffusers_erasure.errors import ConfigError
from diffusers_erasure.evaluation.prompt_sets import Purpose
from diffusers_erasure.training.registry import method
from diffusers_erasure.training.trce_settings import TRCEConfig

from .test_report import report as evaluation
from .test_report import row

SUMMARY = """
 method             trce
 pairs              1804
 mapped states      1804
 retained states    71300
 condition          1.297e+08
 missing change     0.629 % of what the mapped states were to change
 drift of retained  14.1 % of what is heard of the retained states
 seconds            4.00
"""
COSTS = {"pairs": 88, "seconds": 4.0, "missing change": 0.006, "drift of retained": 0.14}


def finish(cell: Cell, *, erased: int = 2, kept: int = 90) -> None:
    """Lay down what a finished cell leaves."""
    rows = (
        row("own name", Purpose.ERASED, 99, erased),
        row("neighbours", Purpose.IN_DOMAIN, 98, kept),
        row("styles", Purpose.CROSS_DOMAIN, 100, 95),
    )
    cell.evaluation.parent.mkdir(parents=True)
    cell.evaluation.write_text(evaluation(*rows).to_json())
    cell.costs_file.write_text(json.dumps({**COSTS, "CPU s": 9.5, "bytes": 123_456}))


def test_the_order_holds_every_concept_once_and_spreads_them_over_the_groups() -> None:
    order = nested_order()
    assert sorted(order) == sorted(CONCEPTS)
    groups = [CONCEPTS[name].group for name in order]
    assert len(set(groups[:5])) >= 4
    assert len(set(groups[:20])) >= 8


def test_each_set_leaves_every_erased_concept_a_neighbour(tmp_path: Path) -> None:
    for cell in cells(COUNTS, tmp_path, 4, 0):
        if cell.is_theme:
            continue
        left = {CONCEPTS[name].group for name in CONCEPTS if name not in cell.names}
        assert {CONCEPTS[name].group for name in cell.names} <= left


def test_sets_hold_the_smaller_ones_and_themes_count_their_members(tmp_path: Path) -> None:
    every = cells(COUNTS, tmp_path, 4, 0)
    growing = [cell for cell in every if not cell.is_theme]
    for smaller, larger in pairwise(growing):
        assert larger.names[: len(smaller.names)] == smaller.names
    counted = {cell.label: cell.concepts for cell in every}
    assert counted["50 concepts"] == 50
    assert counted["weapons"] == len(THEMES["weapons"])
    assert counted["seven themes"] == sum(map(len, THEMES.values()))
    assert len({cell.folder for cell in every}) == len(every)
    with pytest.raises(ConfigError, match="67 concepts cannot be erased; expected 1 to 66"):
        cells((67,), tmp_path, 4, 0)


def test_every_training_is_a_valid_command_for_stage_one(tmp_path: Path) -> None:
    for cell in cells(COUNTS, tmp_path, 4, 0):
        command = next(cell.steps())[2]
        config = parse(method(command[1]), command[2:])
        assert isinstance(config, TRCEConfig)
        assert (config.concept, config.stages) == (cell.names, "1")
        assert len(config.concepts.leaves) == cell.concepts


def test_other_pictures_go_elsewhere_and_share_artifact_and_picture_folder(tmp_path: Path) -> None:
    dev, test = (Cell("weapons", ("weapons",), tmp_path, n, seed) for n, seed in ((4, 0), (5, 9)))
    assert dev.evaluation != test.evaluation
    (_, _, one), (_, _, other) = list(dev.steps())[1], list(test.steps())[1]
    assert one[one.index("--first_seed") + 1] == "0"
    assert other[other.index("--n") + 1] == "5"
    assert one[one.index("--cache_dir") + 1] == other[other.index("--cache_dir") + 1]
    assert one[1] == other[1] == str(dev.artifact)


def test_a_finished_step_is_not_run_again_and_a_failed_one_is_named(tmp_path: Path) -> None:
    cell = Cell("none", ("no-such",), tmp_path, 4, 0)
    cell.folder.mkdir()
    cell.costs_file.write_text("{}")
    with pytest.raises(RuntimeError, match=r"evaluate of .*none ended without evaluation.json"):
        run_cell(cell)
    assert not (cell.folder / "train.log").exists()
    assert (cell.folder / "evaluate.log").stat().st_size > 0


def test_figures_are_read_from_a_trainings_summary() -> None:
    assert summary_numbers(SUMMARY) == {
        **COSTS,
        "pairs": 1804.0,
        "missing change": pytest.approx(0.00629),
        "drift of retained": pytest.approx(0.141),
    }
    with pytest.raises(ValueError, match="no line 'seconds'"):
        summary_numbers(SUMMARY.replace("seconds", "hours"))


def test_finished_cells_are_reported_with_their_counts(tmp_path: Path) -> None:
    every = cells((1, 2), tmp_path, 100, 900_000_000)
    finish(every[0])
    finish(every[2], erased=40, kept=50)
    _, written, finished = report(every, tmp_path)
    assert finished == 2
    assert [file.name for file in written] == ["report.md", "report.json", "many-concepts.png"]
    first, theme = json.loads((tmp_path / "report.json").read_text())
    assert (first["erased"], first["concepts"], theme["concepts"]) == ("1 concept", "1", "9")
    assert (first["own name"], theme["own name"]) == ("99 → 2/100", "99 → 40/100")
    assert first["synonyms"] == "–"
    assert first["retained"].startswith("198 → 185/200 = 92.5 %")
    assert theme["verdict"] == "degenerate"
    assert first["bytes"] == "123456"
    assert len((tmp_path / "report.md").read_text().splitlines()) == 4
    with Image.open(tmp_path / "many-concepts.png") as picture:
        assert picture.width > 400
        assert len(set(picture.convert("L").tobytes())) > 20


def test_without_a_finished_cell_there_is_no_plot(tmp_path: Path) -> None:
    _, written, finished = report(cells((1,), tmp_path, 4, 0), tmp_path)
    assert (finished, [file.name for file in written]) == (0, ["report.md", "report.json"])
