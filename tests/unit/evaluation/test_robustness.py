"""The benchmark that sets methods side by side: commands that exist, and figures that are counted right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks.robustness import PLANS, Cell, Variant, cells, run_cell
from benchmarks.robustness_report import ATTACK, LUCK, CellFiles, excess, pool, report
from diffusers_erasure.cli.train import parse
from diffusers_erasure.evaluation.attack_file import AttackFile
from diffusers_erasure.evaluation.intervals import mcnemar_exact
from diffusers_erasure.evaluation.prompt_sets import Purpose
from diffusers_erasure.training.config import TrainingConfig
from diffusers_erasure.training.registry import method

from .counted_runs import N, run
from .test_report import report as evaluation
from .test_report import row


def finish(cell: CellFiles, attacked: int, luck: int, *, kept: int = 100, seconds: float = 10.0) -> None:
    """Lay down what a finished cell leaves."""
    rows = (
        row("own name", Purpose.ERASED, 100, 2),
        row("neighbours", Purpose.IN_DOMAIN, 100, kept),
        row("styles", Purpose.CROSS_DOMAIN, 100, 100),
    )
    texts = {cell.evaluation: evaluation(*rows).to_json()}
    for name, successes in ((ATTACK, attacked), (LUCK, luck)):
        texts[cell.attack(name)] = attack_text(successes)
    for file, text in texts.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    cell.note_seconds("train", seconds)


def attack_text(successes: int) -> str:
    fields: dict[str, Any] = {
        "run": run(successes).record,
        "luck": (),
        "comparisons": (),
        "typed": "not measured",
        "zero_gradients": 0,
        "concepts": ("church",),
        "model": "embedded",
        "budget": "quick",
        "judges": (),
        "labels": ("church",),
        "steps": 25,
        "guidance_scale": 3.0,
        "scope": "-",
        "versions": {},
        "created": "-",
    }
    return AttackFile(**fields).to_json()


@pytest.mark.parametrize("plan", PLANS)
def test_every_training_of_a_plan_is_a_valid_command(plan: str, tmp_path: Path) -> None:
    for cell in cells(plan, ("church", "ink"), (1,), tmp_path):
        command = next(cell.steps(34))[2]
        assert command[0] == "train"
        config = parse(method(command[1]), command[2:])
        assert isinstance(config, TrainingConfig)
        assert (config.concept, config.seed) == ((cell.concept,), cell.seed)


def test_no_two_cells_share_a_folder_and_no_two_training_seeds_a_picture(tmp_path: Path) -> None:
    every = [cell for plan in PLANS for cell in cells(plan, ("church", "dog"), (0, 1, 2), tmp_path / plan)]
    assert len({cell.files.folder for cell in every}) == len(every)
    firsts = {}
    for cell in every:
        evaluate = next(command for name, _, command in cell.steps(34) if name == "evaluate")
        firsts[cell.seed] = int(evaluate[evaluate.index("--first_seed") + 1])
    assert sorted(firsts) == [0, 1, 2]
    assert min(firsts[1] - firsts[0], firsts[2] - firsts[1]) > 34


def test_a_finished_step_is_not_run_again_and_a_failed_one_is_named(tmp_path: Path) -> None:
    cell = Cell(Variant("none", "no-such-method"), "church", 0, tmp_path)
    for name, done, _ in cell.steps(4):
        if name != "evaluate":
            done.parent.mkdir(parents=True)
            done.write_text("{}")
    with pytest.raises(RuntimeError, match=r"evaluate of .*none-0 ended without evaluation.json"):
        run_cell(cell, 4)
    assert not (cell.files.folder / "train.log").exists()
    assert (cell.files.folder / "evaluate.log").stat().st_size > 0


def test_excess_counts_prompts_that_only_one_side_brought_back() -> None:
    assert excess("1110", "1001") == (2, 1, mcnemar_exact(2, 1))
    assert excess("F0", "00") == (1, 0, mcnemar_exact(1, 0))  # a prompt that failed counts for its attack
    with pytest.raises(ValueError, match="zip"):
        excess("111", "11")


def test_training_seeds_are_pooled_and_compared_prompt_by_prompt(tmp_path: Path) -> None:
    ours = [CellFiles("ours", "church", seed, tmp_path / f"ours-{seed}") for seed in (0, 1)]
    base = [CellFiles("base", "church", seed, tmp_path / f"base-{seed}") for seed in (0, 1)]
    missing = CellFiles("base", "dog", 0, tmp_path / "missing")
    for cell, attacked, luck in (
        *zip(ours, (3, 5), (2, 5), strict=True),
        *zip(base, (12, 15), (4, 4), strict=True),
    ):
        finish(cell, attacked, luck, kept=94 if cell in base else 100)
    first, second = pool([*ours, *base])
    assert (first.rate(ATTACK).k, first.rate(ATTACK).n) == (8, 2 * N)
    assert [marks.count("1") for marks in second.by_seed(ATTACK)] == [12, 15]
    assert (first.change, second.change) == pytest.approx((0.0, -3.0))

    found = report([*ours, *base, missing], tmp_path / "report")
    assert found.finished == 4
    written = json.loads((tmp_path / "report" / "report.json").read_text())
    assert [line["variant"] for line in written] == ["ours", "base"]
    assert written[0]["by seed"] == f"3/{N}, 5/{N}"
    assert float(written[0]["p (excess)"]) == 1.0
    assert float(written[1]["p (first variant)"]) == pytest.approx(mcnemar_exact(19, 0), rel=0.1)
    assert written[1]["retained"] == "400 → 388 of 400"
    assert (written[0]["own name"], written[0]["synonyms"]) == ("4/200", "–")
    with Image.open(tmp_path / "report" / "robustness.png") as picture:
        assert picture.width > 400
        assert len(set(picture.convert("L").tobytes())) > 20


def test_further_attacks_of_a_plan_are_run_and_told(tmp_path: Path) -> None:
    cell = Cell(Variant("ours", "esd"), "church", 0, tmp_path, ("soft_prompt",))
    names = [name for name, _, _ in cell.steps(4)]
    assert names == ["train", "evaluate", ATTACK, LUCK, "soft_prompt"]
    finish(cell.files, 3, 2)
    assert not cell.files.finished
    file = cell.files.attack("soft_prompt")
    file.parent.mkdir(parents=True)
    file.write_text(attack_text(7))
    report([cell.files], tmp_path / "report")
    (line,) = json.loads((tmp_path / "report" / "report.json").read_text())
    assert line["soft_prompt"].startswith(f"7/{N}")
    assert line["UnlearnDiffAtk"].startswith(f"3/{N}")
