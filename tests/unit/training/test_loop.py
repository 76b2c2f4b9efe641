"""The loop: what is stopped and resumed, accumulated or shared by processes ends as if nothing had been."""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from diffusers_erasure.errors import ConfigError, MissingDependencyError, TrainingError
from diffusers_erasure.training import Progress
from diffusers_erasure.training.callbacks import (
    Callback,
    Measure,
    ReportProgress,
    SampleGrid,
    StepReport,
    StopOnDivergence,
)
from diffusers_erasure.training.checkpoint import CheckpointFolder, read_checkpoint
from diffusers_erasure.training.draws import StepDraws
from diffusers_erasure.training.loop import run_training
from diffusers_erasure.training.stopping import TrainingStopped
from tests.unit.training.toy import AtStep, ToyTask, kill, settings, train, weights

SCRIPT = Path(__file__).with_name("toy.py")


@pytest.fixture(scope="module")
def uninterrupted() -> Tensor:
    """Weights after a run that nothing stopped."""
    task, outcome = train()
    assert outcome.steps == 12
    return weights(task)


class Watch(Callback):
    """Keeps every report."""

    def __init__(self) -> None:
        self.reports: list[StepReport] = []

    def on_step(self, report: StepReport) -> None:
        self.reports.append(report)


def test_it_learns_and_reports_what_it_minimised() -> None:
    watch = Watch()
    train(None, watch, max_train_steps=200, learning_rate=3e-2)
    first, last = watch.reports[:20], watch.reports[-20:]
    assert sum(r.losses["loss"] for r in last) < 0.3 * sum(r.losses["loss"] for r in first)
    for report in watch.reports:
        terms = report.losses
        assert terms["loss"] == pytest.approx(terms["sum"] + 0.5 * terms["copy"], rel=1e-5)
    assert watch.reports[0].learning_rate == 0.0
    assert watch.reports[1].learning_rate == pytest.approx(1.5e-2)


def test_one_step_is_the_optimizers_formula() -> None:
    """Adam's first step moves every weight by the learning rate against the sign of its gradient."""
    task, reference = ToyTask(), ToyTask()
    reference.losses(StepDraws.at(3, 0, batch=4))["loss"].backward()
    run_training(task, settings(max_train_steps=1, lr_scheduler="constant", seed=3))
    for after, before in zip(task.network.parameters(), reference.network.parameters(), strict=True):
        assert before.grad is not None
        step = 1e-2 * before.grad / (before.grad.abs() + 1e-8)
        torch.testing.assert_close(after.detach(), before.detach() - step, atol=1e-6, rtol=0)


def test_the_same_seed_gives_the_same_and_another_seed_another(uninterrupted: Tensor) -> None:
    assert torch.equal(weights(train()[0]), uninterrupted)
    assert not torch.equal(weights(train(seed=1)[0]), uninterrupted)


def test_the_callers_randomness_stays_as_it_was() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(task=ToyTask(dropout=0.5))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_run_that_was_asked_to_stop_goes_on_bit_by_bit(
    tmp_path: Path, dropout: float, number: signal.Signals, code: int
) -> None:
    handlers = [signal.getsignal(kind) for kind in (signal.SIGTERM, signal.SIGINT)]
    whole, _ = train(task=ToyTask(dropout=dropout))
    folder = tmp_path / "parts"
    with pytest.raises(TrainingStopped) as stopped:
        train(folder, AtStep(7, kill(number)), task=ToyTask(dropout=dropout))
    assert stopped.value.code == code
    assert [signal.getsignal(kind) for kind in (signal.SIGTERM, signal.SIGINT)] == handlers
    torch.rand(7)
    task, outcome = train(folder, task=ToyTask(dropout=dropout), resume_from_checkpoint="latest")
    assert outcome.resumed_at in (7, 8)
    assert torch.equal(weights(task), weights(whole))
    assert task.seen == 12


def run_script(mode: str, folder: Path, *, processes: int = 1) -> subprocess.CompletedProcess[str]:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *(torchrun if processes > 1 else []), str(SCRIPT), mode, str(folder)]
    root = Path(__file__).resolve().parents[3]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.parametrize(("mode", "code", "done"), [("stop", 143, {7, 8}), ("kill", -signal.SIGKILL, {5})])
def test_a_process_that_is_terminated_or_killed_loses_nothing_that_counts(
    tmp_path: Path, uninterrupted: Tensor, mode: str, code: int, done: set[int]
) -> None:
    finished = run_script(mode, tmp_path / "run")
    assert finished.returncode == code, finished.stderr
    task, outcome = train(tmp_path / "run", resume_from_checkpoint="latest")
    assert outcome.resumed_at in done
    assert torch.equal(weights(task), uninterrupted)


def test_two_processes_equal_one_with_twice_the_batch(tmp_path: Path) -> None:
    finished = run_script("together", tmp_path / "two", processes=2)
    assert finished.returncode == 0, finished.stderr
    ranks = [
        torch.tensor(json.loads((tmp_path / f"rank-{rank}.txt").read_text(encoding="utf-8")))
        for rank in (0, 1)
    ]
    assert torch.equal(ranks[0], ranks[1]), "the processes ended with different weights"
    one, _ = train(max_grad_norm=0.5)
    torch.testing.assert_close(ranks[0], weights(one), atol=1e-5, rtol=1e-4)
    half, _ = train(max_grad_norm=0.5, train_batch_size=2)
    assert not torch.allclose(weights(half), weights(one), atol=1e-3), "the second half was not used"
    task, outcome = train(tmp_path / "two", max_grad_norm=0.5, resume_from_checkpoint="latest")
    assert outcome.resumed_at == 12, "a checkpoint of two processes goes on in one with the same batch"
    torch.testing.assert_close(weights(task), ranks[0])


def test_one_process_that_is_asked_stops_all(tmp_path: Path) -> None:
    finished = run_script("stop-one", tmp_path / "two", processes=2)
    assert finished.returncode != 0
    (path,) = CheckpointFolder(tmp_path / "two-training").paths()
    assert read_checkpoint(path).step in (7, 8, 9)
    assert "exitcode  : 143" in finished.stderr.replace("exitcode:", "exitcode  :")


def test_accumulated_passes_equal_one_batch(uninterrupted: Tensor) -> None:
    task, _ = train(train_batch_size=1, gradient_accumulation_steps=4)
    assert set(task.batches) == {1}
    assert len(task.batches) == 48
    torch.testing.assert_close(weights(task), uninterrupted, atol=1e-5, rtol=1e-4)


def test_clipping_limits_the_gradient() -> None:
    watch = Watch()
    clipped, _ = train(None, watch, max_grad_norm=1e-3, optimizer="adamw", adam_weight_decay=0.1)
    assert all(report.gradient_norm > 1e-3 for report in watch.reports)
    assert not torch.equal(weights(clipped), weights(train(optimizer="adamw", adam_weight_decay=0.1)[0]))


def test_bf16_runs_the_forward_pass_in_bf16() -> None:
    seen: list[torch.dtype] = []
    task = ToyTask()
    task.network[0].register_forward_hook(lambda module, arguments, output: seen.append(output.dtype))
    train(task=task, mixed_precision="bf16", max_train_steps=2)
    assert set(seen) == {torch.bfloat16}
    assert weights(task).dtype == torch.float32
    train(max_train_steps=1)  # another precision in the same process


class Broken(ToyTask):
    """Its loss is what it is told to be from the fourth step on."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def losses(self, draws: StepDraws) -> dict[str, Tensor]:
        found = super().losses(draws)
        return {"loss": found["loss"] * (self.factor if draws.step >= 3 else 1.0)}


@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_run_before_it_reaches_the_weights(factor: float) -> None:
    task, healthy = Broken(factor), Broken(1.0)
    with pytest.raises(TrainingError, match=r"loss of step 4 is not finite.*expected a number; lower"):
        train(task=task)
    before: list[Tensor] = []
    train(None, AtStep(3, lambda: before.append(weights(healthy))), task=healthy)
    assert torch.equal(weights(task), before[0]), "step 4 changed the weights"


def test_a_gradient_that_is_not_finite_ends_the_run() -> None:
    class Root(ToyTask):
        def losses(self, draws: StepDraws) -> dict[str, Tensor]:
            return {"loss": (self.network[0].bias * 0).sum().sqrt() + draws.step}

    with pytest.raises(TrainingError, match="gradient of step 1 is not finite"):
        train(task=Root())


def test_a_diverging_run_is_ended() -> None:
    stop = StopOnDivergence(5.0, window=3)
    with pytest.raises(TrainingError, match=r"training diverges: loss averaged .* lower learning_rate"):
        train(None, stop, task=Broken(100.0))


def test_the_watch_for_divergence_survives_a_checkpoint() -> None:
    first, second = StopOnDivergence(5.0, window=3), StopOnDivergence(5.0, window=3)
    for step, loss in enumerate([1.0, 2.0, 3.0], start=1):
        first.on_step(StepReport(step, 9, {"loss": loss}, 0.1, 1.0, 0.1))
    second.load_state(json.loads(json.dumps(first.state())))
    with pytest.raises(TrainingError, match="lowest average was 2"):
        second.on_step(StepReport(4, 9, {"loss": 100.0}, 0.1, 1.0, 0.1))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learning_rate": 2e-2}, r"learning_rate was 0\.01, now 0\.02"),
        ({"seed": 7}, "seed was 0, now 7"),
        ({"train_batch_size": 8}, "global batch was 4, now 8"),
        ({"max_train_steps": 30}, "max_train_steps was 12, now 30"),
        ({"task": ToyTask(base="other")}, "base model was 'toy', now 'other'"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    train(tmp_path / "run")
    with pytest.raises(TrainingError, match=f"belongs to another run: .*{message}"):
        train(tmp_path / "run", resume_from_checkpoint="latest", **values)


def test_a_run_with_a_constant_rate_can_be_prolonged(tmp_path: Path) -> None:
    constant = {"lr_scheduler": "constant"}
    train(tmp_path / "run", **constant)
    longer, outcome = train(tmp_path / "run", resume_from_checkpoint="latest", max_train_steps=20, **constant)
    assert outcome.resumed_at == 12
    assert torch.equal(weights(longer), weights(train(max_train_steps=20, **constant)[0]))


def test_checkpoints_in_the_way_are_neither_taken_nor_lost(tmp_path: Path, uninterrupted: Tensor) -> None:
    train(tmp_path / "run", max_train_steps=5)
    with pytest.raises(
        TrainingError, match=r"holds checkpoints .*checkpoint-5.*resume_from_checkpoint latest"
    ):
        train(tmp_path / "run")
    task, outcome = train(tmp_path / "run", overwrite=True)
    assert outcome.resumed_at == 0
    assert torch.equal(weights(task), uninterrupted)


def test_latest_without_a_checkpoint_begins_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        _, outcome = train(tmp_path / "run", resume_from_checkpoint="latest")
    assert outcome.resumed_at == 0
    assert "begins anew" in caplog.text


def test_latest_means_the_runs_own_folder_and_not_where_it_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tmp_path / "run", lr_scheduler="constant", max_train_steps=5)
    monkeypatch.chdir(tmp_path / "run-training")
    with pytest.raises(ConfigError, match="'latest', but the run has no output_dir"):
        train(None, lr_scheduler="constant", resume_from_checkpoint="latest")
    _, outcome = train(None, lr_scheduler="constant", resume_from_checkpoint="checkpoint-5")
    assert outcome.resumed_at == 5


def test_a_run_without_a_folder_leaves_nothing_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TrainingStopped), caplog.at_level(logging.WARNING):
        train(None, AtStep(2, kill(signal.SIGTERM)))
    assert "not saved" in caplog.text
    assert not list(tmp_path.iterdir())


def test_progress_sees_every_step_with_its_losses() -> None:
    seen: list[Progress] = []
    train(None, ReportProgress(seen.append), max_train_steps=3)
    assert [(progress.phase, progress.done, progress.total) for progress in seen] == [
        ("train", step, 3) for step in (1, 2, 3)
    ]
    assert {"loss", "sum", "copy", "seconds per step"} <= set(seen[0].values)


def test_sample_grids_and_measurements_come_in_time(tmp_path: Path) -> None:
    from PIL import Image

    pictures = torch.zeros(5, 3, 6, 8, dtype=torch.uint8)
    pictures[4] = 255
    grid = SampleGrid(lambda: pictures, tmp_path / "grids", every=5, columns=3)
    counted: list[int] = []
    measure = Measure(lambda: counted.append(1) or {"score": 0.5}, every=4)
    train(tmp_path / "run", grid, measure, report_to=("jsonl",))
    assert sorted(path.name for path in (tmp_path / "grids").iterdir()) == [
        "step-000005.png",
        "step-000010.png",
        "step-000012.png",
    ]
    sheet = Image.open(tmp_path / "grids" / "step-000005.png")
    assert sheet.size == (24, 12)
    assert sheet.getpixel((9, 7)) == (255, 255, 255)
    assert sheet.getpixel((1, 7)) == (0, 0, 0)
    assert len(counted) == 3
    logged = (tmp_path / "run-training" / "logs" / "diffusers-erasure.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in logged.splitlines()]
    assert [line["step"] for line in lines if "score" in line] == [4, 8, 12]


def test_the_log_of_a_resumed_run_has_every_step_once(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="power cut"):
        train(tmp_path / "run", AtStep(8, _cut), report_to=("jsonl",))
    train(tmp_path / "run", report_to=("jsonl",), resume_from_checkpoint="latest")
    logged = (tmp_path / "run-training" / "logs" / "diffusers-erasure.jsonl").read_text(encoding="utf-8")
    assert [json.loads(line)["step"] for line in logged.splitlines()] == list(range(1, 13))


def test_a_line_that_a_killed_run_left_unfinished_is_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(RuntimeError, match="power cut"):
        train(tmp_path / "run", AtStep(8, _cut))
    log = tmp_path / "run-training" / "logs" / "diffusers-erasure.jsonl"
    with log.open("a", encoding="utf-8") as file:
        file.write('{"step": 9, "lo')
    train(tmp_path / "run", resume_from_checkpoint="latest")
    assert "is no step of a run" in caplog.text
    logged = log.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in logged] == list(range(1, 13))


def _cut() -> None:
    raise RuntimeError("power cut")


def test_trackers_that_cannot_work_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"no tracker 'tensorbord'.*known trackers are jsonl"):
        train(tmp_path / "a", report_to=("tensorbord",))
    with pytest.raises(ConfigError, match="no folder for it"):
        train(None, report_to=("jsonl",))
    from diffusers_erasure.training import trackers

    monkeypatch.setattr(trackers, "get_available_trackers", list)
    with pytest.raises(MissingDependencyError, match="'wandb' is not installed"):
        train(tmp_path / "b", report_to=("wandb",))


def test_what_cannot_be_trained_is_refused() -> None:
    half, frozen, empty = ToyTask(), ToyTask(), ToyTask()
    half.network.half()
    with pytest.raises(ConfigError, match=r"float16.*expected float32"):
        train(task=half)
    frozen.network[0].weight.requires_grad_(False)
    with pytest.raises(ConfigError, match="requires_grad=False"):
        train(task=frozen)
    empty.parameters = dict  # type: ignore[method-assign]
    with pytest.raises(ConfigError, match="nothing to train"):
        train(task=empty)
