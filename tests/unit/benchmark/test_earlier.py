"""What earlier runs measured: not run again, shown beside what is here, never mixed with other weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from diffusers_erasure.benchmark.cells import Cell
from diffusers_erasure.benchmark.earlier import Earlier, joined, measured, read_earlier
from diffusers_erasure.benchmark.gathering import gather
from diffusers_erasure.benchmark.stored import CellRecord, Stored, read_cell
from diffusers_erasure.benchmark.variants import BY_SLUG
from diffusers_erasure.cli.bench import settings_of
from diffusers_erasure.errors import ConfigError, EvaluationError

from .made_cells import N, cell_record, finish, marks, small_profile

PAIR = ("unlearndiffatk", "random_tokens")
STEPS = ["train", "evaluate", *PAIR]
UCE = small_profile(BY_SLUG["uce"])


def cell(folder: Path, attacks: tuple[str, ...] = PAIR, *, seed: int = 0) -> Cell:
    return Cell(BY_SLUG["uce"], "church", seed, folder, attacks, N)


def stored(folder: Path, *records: CellRecord, name: str = "benchmark.json", prompts: int = N) -> Path:
    """A file as an earlier run leaves it."""
    file = folder / name
    counts = {"planned": len(records), "finished": len(records)}
    file.write_text(
        Stored(profile="advunlearn", prompts=prompts, seeds=(0,), cells=records, **counts).to_json()
    )
    return file


def measured_before(folder: Path, successes: dict[str, int]) -> CellRecord:
    """The record of a cell that ran in another folder."""
    finish(cell(folder), successes)
    found = read_cell(cell(folder), settings_of)
    assert found is not None
    return found


def told(folder: Path, earlier: Earlier, attacks: tuple[str, ...] = PAIR) -> Cell:
    (found,) = earlier.known_to([cell(folder, attacks)], settings_of)
    return found


def left(cell: Cell) -> list[str]:
    return [step.name for step in cell.steps() if not step.finished]


def test_a_cell_that_was_measured_is_not_run_again(tmp_path: Path) -> None:
    record = measured_before(tmp_path / "before", {"unlearndiffatk": 7, "random_tokens": 2})
    earlier = read_earlier([stored(tmp_path, record)], N)
    here = told(tmp_path / "here", earlier)
    assert here.finished
    assert left(cell(tmp_path / "here")) == STEPS
    found = gather(UCE, [cell(tmp_path / "here")], settings_of=settings_of, earlier=earlier)
    assert (found.finished, found.cells) == (1, (record,))


def test_an_attack_that_is_missing_needs_the_weights_and_no_more_than_these(tmp_path: Path) -> None:
    record = measured_before(tmp_path / "before", {"unlearndiffatk": 7})
    earlier = read_earlier([stored(tmp_path, record)], N)
    assert left(told(tmp_path / "here", earlier)) == ["train", "random_tokens"]
    finish(cell(tmp_path / "here"), {"random_tokens": 2})
    assert left(told(tmp_path / "here", earlier)) == []
    (found,) = gather(UCE, [cell(tmp_path / "here")], settings_of=settings_of, earlier=earlier).cells
    assert {name: one.marks.count("1") for name, one in found.attacks.items()} == {
        "unlearndiffatk": 7,
        "random_tokens": 2,
    }


def test_measurements_of_other_weights_are_made_again_and_never_mixed(tmp_path: Path) -> None:
    record = measured_before(tmp_path / "before", {"unlearndiffatk": 7, "random_tokens": 2})
    other = record.model_copy(update={"weights": "f" * 64})
    earlier = read_earlier([stored(tmp_path, other)], N)
    finish(cell(tmp_path / "here"), {"unlearndiffatk": 1})
    assert left(told(tmp_path / "here", earlier)) == ["random_tokens"]
    here = read_cell(cell(tmp_path / "here"), settings_of)
    assert earlier.beside(cell(tmp_path / "here"), here) == other  # which alone is whole
    finish(cell(tmp_path / "whole"), {"unlearndiffatk": 1, "random_tokens": 1})
    whole = read_cell(cell(tmp_path / "whole"), settings_of)
    assert earlier.beside(cell(tmp_path / "whole"), whole) == whole


@pytest.mark.parametrize("same", [True, False])
def test_a_training_that_is_run_tells_what_is_known_of_it(tmp_path: Path, *, same: bool) -> None:
    record = measured_before(tmp_path / "before", {"unlearndiffatk": 7})
    other = record if same else record.model_copy(update={"weights": "f" * 64})
    here = told(tmp_path / "here", read_earlier([stored(tmp_path, other)], N))
    steps = here.steps()
    assert (next(steps).name, here.artifact.exists()) == ("train", False)
    finish(replace(here, known=None), {})
    here.evaluation.unlink()
    missing = ["random_tokens"] if same else ["evaluate", *PAIR]
    assert [step.name for step in steps if not step.finished] == missing


def test_weights_that_were_not_kept_are_other_weights(tmp_path: Path) -> None:
    record = measured_before(tmp_path / "before", {"unlearndiffatk": 7})
    earlier = read_earlier([stored(tmp_path, record.model_copy(update={"weights": ""}))], N)
    finish(cell(tmp_path / "here"), {"random_tokens": 2})
    assert left(told(tmp_path / "here", earlier)) == ["unlearndiffatk"]


def test_prompts_that_failed_are_tried_again() -> None:
    record = cell_record("uce", attacks={"unlearndiffatk": marks(3), "p4d": marks(0, marks="F" + "0" * 19)})
    assert measured(record) == {"evaluate", "unlearndiffatk"}
    assert measured(record.model_copy(update={"verdict": None})) == {"unlearndiffatk"}


def test_machines_hand_each_other_what_they_have(tmp_path: Path) -> None:
    common = {"weights": "a" * 64, "settings": {"x": 1}}
    failed = marks(1, marks="F" + "0" * 19)
    first = cell_record("uce", attacks={"unlearndiffatk": failed}, verdict=None, sets=(), kid=None, **common)
    second = cell_record("uce", attacks={"unlearndiffatk": 4, "random_tokens": 1}, seed=0, **common)
    both = joined(first, second)
    assert both == joined(second, first) == second
    files = [stored(tmp_path, first, name="one.json"), stored(tmp_path, second, name="two.json")]
    assert [record for record, _ in read_earlier(files, N).records.values()] == [second]


def test_every_record_of_another_training_is_named_at_once(tmp_path: Path) -> None:
    record = measured_before(tmp_path / "before", {"unlearndiffatk": 7})
    other = record.model_copy(update={"settings": {**record.settings, "concept": ["dog"]}})
    silent = record.model_copy(update={"seed": 1, "settings": {}})
    file = stored(tmp_path, other, silent)
    here = [cell(tmp_path / "here"), cell(tmp_path / "here", seed=1), cell(tmp_path / "here", seed=2)]
    with pytest.raises(ConfigError, match=r"^2 of the records") as caught:
        read_earlier([file], N).known_to(here, settings_of)
    said = str(caught.value)
    assert "concept ['dog'], not ['church']" in said
    assert "it does not say with which settings" in said
    assert said.count(str(file)) == 2


def test_records_of_other_prompts_and_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds cells of 8 prompts; expected 20"):
        read_earlier([stored(tmp_path, prompts=8)], N)
    (tmp_path / "none.json").write_text(json.dumps({"cells": 3}))
    with pytest.raises(EvaluationError, match="holds no results of the benchmark"):
        read_earlier([tmp_path / "none.json"], N)


def test_a_cell_that_nobody_measured_is_as_it_was(tmp_path: Path) -> None:
    earlier = read_earlier([], N)
    assert told(tmp_path, earlier) == cell(tmp_path)
    record = measured_before(tmp_path / "before", {})
    other = replace(cell(tmp_path), seed=1)
    assert read_earlier([stored(tmp_path, record)], N).known_to([other], settings_of) == [other]
