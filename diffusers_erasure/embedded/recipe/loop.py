"""The one training loop of the recipe: data-parallel over processes, resumable, with progress.

Started by `torchrun --nproc_per_node 2 -m diffusers_erasure.embedded.train` each process runs one thread and
the gradients are averaged with gloo, which on two cores is several times faster than one process with two
threads. Each process draws its own batches from a generator seeded by (seed, step, rank): a resumed run sees
the batches that the uninterrupted one would have seen.
"""

import json
import logging
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

logger = logging.getLogger(__name__)

Step = Callable[[int, torch.Generator], dict[str, Tensor]]


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a network is trained.

    Attributes:
        steps: Optimizer steps in all.
        learning_rate: Peak; linear warm-up over 2 % of the steps, then cosine to 2 %.
        ema_decay: Of the averaged weights that are kept; the first steps use a shorter average.
        weight_decay: AdamW's.
    """

    steps: int
    learning_rate: float
    ema_decay: float = 0.999
    weight_decay: float = 0.01


class World:
    """The processes that train together; one process if none were started by torchrun."""

    def __init__(self) -> None:
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        if self.size > 1 and not dist.is_initialized():
            dist.init_process_group("gloo")

    @property
    def leads(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            dist.barrier()

    def average_gradients(self, parameters: list[nn.Parameter]) -> None:
        """Replace every gradient by its mean over the processes, in one exchange."""
        if self.size == 1:
            return
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self.size
        for parameter, part in zip(parameters, flat.split([g.numel() for g in gradients]), strict=True):
            parameter.grad = part.view_as(parameter)

    def any(self, flag: bool) -> bool:
        """Whether `flag` is set in any process."""
        if self.size == 1:
            return flag
        value = torch.tensor([float(flag)])
        dist.all_reduce(value, dist.ReduceOp.MAX)
        return bool(value.item())


def train(
    network: nn.Module,
    step: Step,
    schedule: Schedule,
    *,
    folder: Path,
    seed: int,
    world: World,
    save_seconds: float = 120,
) -> nn.Module:
    """Train `network` and leave it with its averaged (EMA) weights.

    Args:
        network: Trained in place; float32.
        step: `(step index, generator)` to a dict of scalar losses, of which "loss" is minimised.
        schedule: Steps, rates, averaging.
        folder: Checkpoints go to `folder/checkpoint`; a run that finds one goes on from it.
        seed: Of the generators handed to `step`.
        world: The processes.
        save_seconds: Time between checkpoints.

    Returns:
        The network, in eval mode.
    """
    run = _Run(network, schedule, folder)
    run.restore()
    generator = torch.Generator()
    started = last_saved = time.monotonic()
    with _stop_flag() as stopped:
        for index in range(run.done, schedule.steps):
            generator.manual_seed((seed * 1_000_003 + index) * 64 + world.rank)
            torch.manual_seed(generator.initial_seed())  # dropout has no generator of its own
            losses = run.advance(index, step, generator, world)
            now = time.monotonic()
            halt = index % 20 == 19 and world.any(stopped())
            if world.leads and (index % 50 == 49):
                _report(
                    folder.name, index + 1, schedule.steps, losses, now - started, index + 1 - run.resumed_at
                )
            if world.leads and (halt or now - last_saved > save_seconds or index + 1 == schedule.steps):
                run.save(index + 1)
                last_saved = now
            if halt:
                sys.exit(143)
    world.wait()
    run.restore()
    network.load_state_dict(run.average)
    return network.eval()


class _Run:
    def __init__(self, network: nn.Module, schedule: Schedule, folder: Path) -> None:
        self.network, self.schedule, self.folder = network, schedule, folder
        self.parameters = [p for p in network.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=schedule.learning_rate, weight_decay=schedule.weight_decay,
            betas=(0.9, 0.99), fused=True,
        )  # fmt: skip
        self.average = {name: value.detach().clone() for name, value in network.state_dict().items()}
        self.done = self.resumed_at = 0

    def advance(self, index: int, step: Step, generator: torch.Generator, world: World) -> dict[str, Tensor]:
        for group in self.optimizer.param_groups:
            group["lr"] = _rate(index, self.schedule)
        self.network.train()
        losses = step(index, generator)
        losses["loss"].backward()
        world.average_gradients(self.parameters)
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        decay = min(self.schedule.ema_decay, (1 + index) / (10 + index))
        with torch.no_grad():
            for name, value in self.network.state_dict().items():
                if value.is_floating_point():
                    self.average[name].lerp_(value, 1 - decay)
                else:
                    self.average[name].copy_(value)
        return losses

    def save(self, done: int) -> None:
        staging, final = self.folder / "checkpoint.new", self.folder / "checkpoint"
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        save_file(
            {k: v.contiguous() for k, v in self.network.state_dict().items()}, staging / "network.safetensors"
        )
        save_file({k: v.contiguous() for k, v in self.average.items()}, staging / "average.safetensors")
        state = self.optimizer.state_dict()["state"]
        moments = {f"{i}.{k}": v.reshape(v.shape) for i, entry in state.items() for k, v in entry.items()}
        save_file(moments, staging / "optimizer.safetensors")
        (staging / "step.json").write_text(json.dumps({"done": done}), encoding="utf-8")
        old = self.folder / "checkpoint.old"
        if final.exists():
            shutil.rmtree(old, ignore_errors=True)
            final.rename(old)
        staging.rename(final)
        shutil.rmtree(old, ignore_errors=True)

    def restore(self) -> None:
        folder = self.folder / "checkpoint"
        if not folder.exists():
            folder = self.folder / "checkpoint.old"
        if not folder.exists():
            return
        self.network.load_state_dict(load_file(folder / "network.safetensors"))
        self.average = load_file(folder / "average.safetensors")
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in load_file(folder / "optimizer.safetensors").items():
            index, _, key = name.partition(".")
            state.setdefault(int(index), {})[key] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.done = self.resumed_at = int(
            json.loads((folder / "step.json").read_text(encoding="utf-8"))["done"]
        )


def _rate(index: int, schedule: Schedule) -> float:
    warm = max(1, schedule.steps // 50)
    if index < warm:
        return schedule.learning_rate * (index + 1) / warm
    progress = torch.tensor((index - warm) / max(1, schedule.steps - warm))
    return schedule.learning_rate * float(0.02 + 0.49 * (1 + torch.cos(progress * torch.pi)))


def _report(name: str, done: int, steps: int, losses: dict[str, Tensor], seconds: float, here: int) -> None:
    each = seconds / max(1, here)
    terms = "  ".join(f"{key} {value.item():.4f}" for key, value in losses.items())
    logger.info(
        "%s %d/%d  %s  %.3f s/step  %.1f min left", name, done, steps, terms, each, each * (steps - done) / 60
    )


@contextmanager
def _stop_flag() -> Iterator[Callable[[], bool]]:
    stop = False

    def ask(_signal: int, _frame: FrameType | None) -> None:
        nonlocal stop
        stop = True

    old = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: stop
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
