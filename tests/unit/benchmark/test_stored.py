"""What the page is made of: read from real reports, kept in one file, the same when it is read again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from diffusers_erasure.artifacts.manifest import SettingRecord
from diffusers_erasure.benchmark.cells import Cell
from diffusers_erasure.benchmark.gathering import gather
from diffusers_erasure.benchmark.stored import Stored, read_cell, read_stored
from diffusers_erasure.benchmark.variants import BY_SLUG
from diffusers_erasure.cli.bench import settings_of
from diffusers_erasure.errors import ConfigError, EvaluationError
from diffusers_erasure.evaluation.records import Verdict

from .made_cells import N, finish, marks, small_profile

PAIR = ("unlearndiffatk", "random_tokens")


def cell(folder: Path, slug: str = "uce", attacks: tuple[str, ...] = PAIR) -> Cell:
    return Cell(BY_SLUG[slug], "church", 0, folder, attacks, N)


def test_a_finished_cell_is_read(tmp_path: Path) -> None:
    finish(cell(tmp_path), {"unlearndiffatk": 7, "random_tokens": 2})
    found = read_cell(cell(tmp_path), settings_of)
    assert found is not None
    assert (found.variant, found.concept, found.seed, found.verdict) == ("uce", "church", 0, Verdict.MEASURED)
    assert {row.name: (row.base, row.erased) for row in found.sets} == {
        "own name": (100, 2),
        "neighbours": (100, 100),
        "styles": (100, 100),
    }
    assert found.attacks["unlearndiffatk"].marks == "1" * 7 + "0" * (N - 7)
    assert found.attacks["unlearndiffatk"].at is None
    assert found.attacks["random_tokens"].at == (2, 2) + (None,) * (N - 2)
    assert (found.train_seconds, found.unet_evaluations, found.artifact_bytes) == (10.0, 1234, 1000)


def test_a_cell_that_is_half_done_says_what_it_has(tmp_path: Path) -> None:
    assert read_cell(cell(tmp_path), settings_of) is None
    finish(cell(tmp_path), {"unlearndiffatk": 7})
    found = read_cell(cell(tmp_path), settings_of)
    assert found is not None
    assert set(found.attacks) == {"unlearndiffatk"}
    assert not cell(tmp_path).finished


def test_a_training_that_was_gone_on_with_has_no_cost(tmp_path: Path) -> None:
    finish(cell(tmp_path), {})
    (cell(tmp_path).folder / "seconds.json").unlink()
    found = read_cell(cell(tmp_path), settings_of)
    assert found is not None
    assert (found.train_seconds, found.unet_evaluations) == (None, None)


def test_a_broken_evaluation_is_kept_as_broken(tmp_path: Path) -> None:
    finish(cell(tmp_path), {}, kept=60)
    found = read_cell(cell(tmp_path), settings_of)
    assert found is not None
    assert found.verdict is Verdict.DEGENERATE


def test_an_attack_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    finish(cell(tmp_path), {"unlearndiffatk": 7})
    file = cell(tmp_path).attack("unlearndiffatk")
    fields = json.loads(file.read_text())
    fields["run"]["asr"] = {**fields["run"]["asr"], "k": 0}
    file.write_text(json.dumps(fields))
    with pytest.raises(EvaluationError, match="is no report of an attack"):
        read_cell(cell(tmp_path), settings_of)


def test_reports_of_another_artifact_are_refused(tmp_path: Path) -> None:
    finish(cell(tmp_path), {"unlearndiffatk": 7}, digest="e" * 64)
    with pytest.raises(
        ConfigError, match=r"church, UCE, training seed 0: .*evaluation\.json is of the erasure ee"
    ):
        read_cell(cell(tmp_path), settings_of)
    shutil.rmtree(cell(tmp_path).evaluation.parent)
    folder = cell(tmp_path).attack("unlearndiffatk").parent
    with pytest.raises(ConfigError, match=rf"attack.json is of the erasure .*delete {folder} and run"):
        read_cell(cell(tmp_path), settings_of)
    shutil.rmtree(folder)
    assert read_cell(cell(tmp_path), settings_of) is not None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": 1}, "seed 1, not 0"),
        ({"method": "esd"}, "method 'esd', not 'uce'"),
        ({"settings": {"use_synonyms": False}}, "use_synonyms False, not True"),
    ],
)
def test_an_artifact_that_was_trained_otherwise_is_refused(
    tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    if isinstance(own := changes.get("settings"), dict):
        changes = {"settings": {name: SettingRecord(value=one, meaning="-") for name, one in own.items()}}
    finish(cell(tmp_path), {}, changes=changes)
    with pytest.raises(ConfigError, match=f"trained otherwise than its variant says: {words};.* delete "):
        read_cell(cell(tmp_path), settings_of)


def test_a_setting_that_came_later_is_no_other_training(tmp_path: Path) -> None:
    finish(cell(tmp_path), {}, changes={"settings": {}})
    assert read_cell(cell(tmp_path), settings_of) is not None


def test_failed_prompts_are_left_to_be_tried_again(tmp_path: Path) -> None:
    one = cell(tmp_path, attacks=("unlearndiffatk",))
    finish(one, {"unlearndiffatk": 7})
    assert one.finished
    file = one.attack("unlearndiffatk")
    marks_of_run = f'"{"1" * 7 + "0" * (N - 7)}"'
    assert marks_of_run in file.read_text()
    file.write_text(file.read_text().replace(marks_of_run, f'"{"1" * 7 + "F" + "0" * (N - 8)}"', 1))
    assert not one.finished
    assert [step.name for step in one.steps() if not step.finished] == ["unlearndiffatk"]


def test_luck_with_fewer_pictures_is_cut() -> None:
    luck = marks(3, at=4)
    assert luck.within(11).count("1") == luck.within(4).count("1") == 3
    assert luck.within(3).count("1") == 0
    failed = marks(0, at=1, marks="F" + "0" * (N - 1))
    assert failed.within(1)[0] == "F"  # what broke down counts, however few pictures it was to be
    with pytest.raises(EvaluationError, match="only luck can tell"):
        marks(3).within(5)


def test_cells_of_two_profiles_are_read_once_with_the_attacks_of_both(tmp_path: Path) -> None:
    one = cell(tmp_path, attacks=("unlearndiffatk",))
    finish(one, {"unlearndiffatk": 7, "random_tokens": 2})
    stored = gather(
        small_profile(BY_SLUG["uce"]), [one], [cell(tmp_path), cell(tmp_path, "esd")], settings_of=settings_of
    )
    assert (stored.planned, stored.finished, len(stored.cells)) == (2, 1, 1)
    assert set(stored.cells[0].attacks) == set(PAIR)


def test_the_file_is_the_same_when_it_is_read_again(tmp_path: Path) -> None:
    finish(cell(tmp_path), {"unlearndiffatk": 7, "random_tokens": 2})
    stored = gather(small_profile(BY_SLUG["uce"]), [cell(tmp_path)], settings_of=settings_of)
    file = tmp_path / "benchmark.json"
    file.write_text(stored.to_json())
    assert read_stored(file) == stored
    assert read_stored(file).to_json() == stored.to_json()
    assert len(stored.to_json().splitlines()) == 3
    file.write_text("{}")
    with pytest.raises(EvaluationError, match="holds no results of the benchmark"):
        read_stored(file)
    with pytest.raises(EvaluationError, match="holds no results of the benchmark"):
        read_stored(tmp_path / "nothing.json")


def test_a_file_without_cells_is_one(tmp_path: Path) -> None:
    stored = gather(small_profile(BY_SLUG["uce"]), [cell(tmp_path)], settings_of=settings_of)
    assert Stored.model_validate_json(stored.to_json()) == stored
