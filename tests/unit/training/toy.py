"""A task so small that a hundred steps take no time: a network that learns sums. Also run as a script."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffusers_erasure.training.callbacks import Callback, StepReport
from diffusers_erasure.training.draws import StepDraws
from diffusers_erasure.training.loop import TrainingOutcome, run_training
from diffusers_erasure.training.settings import TrainingSettings


class ToyTask:
    """Learns sums and differences of what it draws; dropout takes torch's global generator."""

    def __init__(self, *, dropout: float = 0.0, base: str = "toy") -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            layers = [nn.Linear(3, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 2)]
            self.network = nn.Sequential(*layers)
        self.base, self.seen = base, torch.zeros(())
        self.batches: list[int] = []

    def parameters(self) -> dict[str, nn.Parameter]:
        return dict(self.network.named_parameters())

    def losses(self, draws: StepDraws) -> dict[str, Tensor]:
        inputs = draws.normal(3)
        self.batches.append(len(inputs))
        self.seen = self.seen + 1
        found = self.network(inputs)
        first = (found[:, 0] - inputs.sum(dim=1)).square().mean()
        second = (found[:, 1] - inputs[:, 0]).square().mean()
        return {"loss": first + 0.5 * second, "sum": first, "copy": second}

    def identity(self) -> dict[str, Any]:
        return {"model": self.base}

    def state(self) -> Mapping[str, Tensor]:
        return {"seen": self.seen}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.seen = state["seen"].clone()


class AtStep(Callback):
    """Calls a function after a step."""

    everywhere = True

    def __init__(self, step: int, action: Callable[[], None]) -> None:
        self.step, self.action = step, action

    def on_step(self, report: StepReport) -> None:
        if report.step == self.step:
            self.action()


def settings(folder: Path | None = None, **values: object) -> TrainingSettings:
    defaults: dict[str, object] = {
        "max_train_steps": 12,
        "learning_rate": 1e-2,
        "train_batch_size": 4,
        "lr_scheduler": "cosine",
        "lr_warmup_steps": 2,
        "checkpointing_steps": 5,
        "output_dir": folder,
    }
    return TrainingSettings.parse(defaults | values)


def train(
    folder: Path | None = None, *callbacks: Callback, task: ToyTask | None = None, **values: object
) -> tuple[ToyTask, TrainingOutcome]:
    task = task or ToyTask()
    return task, run_training(task, settings(folder, **values), callbacks)


def weights(task: ToyTask) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in task.network.parameters()])


def kill(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


if __name__ == "__main__":
    torch.set_num_threads(1)
    mode, place = sys.argv[1], Path(sys.argv[2])
    if mode == "stop":
        train(place, AtStep(7, kill(signal.SIGTERM)))
    elif mode == "kill":
        train(place, AtStep(7, kill(signal.SIGKILL)))
    elif mode == "together":
        trained, _ = train(place, train_batch_size=2, max_grad_norm=0.5)
        rank = int(os.environ["RANK"])
        assert torch.distributed.get_world_size() == 2
        assert set(trained.batches) == {2}
        (place.parent / f"rank-{rank}.txt").write_text(repr(weights(trained).tolist()), encoding="utf-8")
        torch.distributed.destroy_process_group()
    elif mode == "stop-one":
        ask = AtStep(7, kill(signal.SIGTERM))
        train(place, *([ask] if os.environ["RANK"] == "1" else []), train_batch_size=2)
