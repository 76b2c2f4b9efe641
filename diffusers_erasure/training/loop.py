"""The training loop of every method that is trained by gradients: the only place that steps an optimizer.

A method brings a `TrainingTask`: which parameters are trained, and what their losses are for given draws. The
loop brings everything else, over accelerate: mixed precision, accumulation, several processes, trackers,
checkpoints, resuming, stopping.

    outcome = run_training(task, settings, [ReportProgress(show)])

- **Resuming is bit-equal.** A step draws from generators that are addressed by (seed, step, sample), so the
  state of a run is its weights, the optimizer's moments, and a number.
- **Processes share a batch.** Gradients are averaged over processes after the backward passes, so two
  processes with a batch of one give what one gives with a batch of two. Start them with torchrun
  (`accelerate launch --cpu --num_processes 2` starts one).
- **SIGTERM** finishes the step, saves, and exits 143; SIGINT likewise with 130.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from accelerate.state import AcceleratorState, GradientState, PartialState  # type: ignore[import-untyped]
from accelerate.utils import ProjectConfiguration  # type: ignore[import-untyped]
from torch import Tensor, nn

from diffusers_erasure.errors import TrainingError

from .agreement import agreed_facts
from .beginning import begun, checkpoint_to_resume
from .callbacks import Callback, StepReport, StopOnDivergence
from .checkpoint import Checkpoint, CheckpointFolder, check_agrees, read_checkpoint
from .draws import StepDraws, derived_seed
from .log_picture import draw_log
from .losses import TOTAL
from .optimizer import Optimizer
from .settings import TrainingSettings
from .stopping import TrainingStopped, stop_signals
from .trackers import JsonLinesTracker, choose_trackers

logger = logging.getLogger(__name__)


class TrainingTask(Protocol):
    """What a method trains."""

    def parameters(self) -> Mapping[str, nn.Parameter]:
        """What is trained, by name: float32, with `requires_grad`."""

    def losses(self, draws: StepDraws) -> Mapping[str, Tensor]:
        """Named losses, `()` each, as means over this pass's samples; the one named "loss" is minimised."""

    def identity(self) -> Mapping[str, Any]:
        """What besides the settings makes it this run, as JSON: fingerprints of the base model."""

    def state(self) -> Mapping[str, Tensor]:
        """What a checkpoint must hold besides parameters and optimizer; usually nothing."""

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take up what `state` gave."""


@runtime_checkable
class StepsItself(Protocol):
    """A task that has a say in how the optimizer steps."""

    def around_step(self, step: Callable[[], object]) -> Mapping[str, float]:
        """Make a step; gradients are averaged over all processes by then.

        Args:
            step: The optimizer's step. Gradients may be changed before it, and weights after.

        Returns:
            Numbers to show and track beside the losses.
        """


@dataclass(frozen=True)
class TrainingOutcome:
    """What came of a run.

    Attributes:
        steps: Optimizer steps in all, those before resuming included.
        resumed_at: Steps that an earlier part of the run had done.
        losses: Loss terms of the last step.
        seconds: How long this part took.
        checkpoint: The last checkpoint, if there is one.
    """

    steps: int
    resumed_at: int
    losses: Mapping[str, float]
    seconds: float
    checkpoint: Path | None


def run_training(
    task: TrainingTask, settings: TrainingSettings, callbacks: Sequence[Callback] = ()
) -> TrainingOutcome:
    """Train until `max_train_steps`, from the start or from a checkpoint.

    Args:
        task: What is trained; its parameters are changed in place.
        settings: How.
        callbacks: Who watches; called in this order after each step.

    Raises:
        ConfigError: The settings cannot be used together.
        TrainingError: The loss is not finite or diverges, a checkpoint belongs to another run, or another run
            is going on in the folder.
        TrainingStopped: A signal asked to stop; the run is saved.
    """
    with begun(settings):
        return _train(task, settings, callbacks)


def _train(task: TrainingTask, settings: TrainingSettings, callbacks: Sequence[Callback]) -> TrainingOutcome:
    watchers = [*callbacks]
    if settings.divergence_factor is not None:
        watchers.append(StopOnDivergence(settings.divergence_factor))
    with _accelerator(task, settings) as accelerator, _generators_left(task), stop_signals() as asked:
        run = _Run(task, settings, watchers, accelerator)
        run.resume()
        with run.tracking():
            started = time.perf_counter()
            losses: Mapping[str, float] = {}
            while run.done < settings.max_train_steps:
                losses, stop = run.advance(asked())
                if stop:
                    if run.folder is None:
                        logger.warning("step %d is not saved: the run has no output_dir", run.done)
                    raise TrainingStopped(stop, run.done, run.save())
            seconds = time.perf_counter() - started
        return TrainingOutcome(run.done, run.resumed_at, losses, seconds, run.last_checkpoint)


@contextmanager
def _accelerator(task: TrainingTask, settings: TrainingSettings) -> Iterator[Accelerator]:
    """An accelerator for the task's device; accelerate's process-wide state is left as it was found."""
    shared = [kind._shared_state for kind in (PartialState, AcceleratorState, GradientState)]
    before = [dict(state) for state in shared]
    folder = settings.log_folder
    try:
        accelerator = Accelerator(
            mixed_precision=settings.mixed_precision,
            gradient_accumulation_steps=settings.gradient_accumulation_steps,
            cpu=_device(task).type == "cpu",
            project_config=ProjectConfiguration(
                project_dir=str(folder) if folder else None, logging_dir=str(folder) if folder else None
            ),
        )
        with _tf32(settings.allow_tf32):
            yield accelerator
    finally:
        for state, found in zip(shared, before, strict=True):
            state.clear()  # in place: its objects share this dict
            state.update(found)


def _device(task: TrainingTask) -> torch.device:
    return next((parameter.device for parameter in task.parameters().values()), torch.device("cpu"))


def _global_generators(task: TrainingTask) -> list[torch.Generator]:
    """Where dropout draws from: the CPU's generator and that of the task's device.

    `torch.manual_seed` would reach those of all devices, which others may be using.
    """
    device, found = _device(task), [torch.default_generator]
    if device.type == "mps":
        found.append(torch.mps._get_default_mps_generator())
    elif device.type != "cpu":
        found.append(torch.get_device_module(device.type).default_generators[device.index])
    return found


@contextmanager
def _generators_left(task: TrainingTask) -> Iterator[None]:
    """Leave the generators that the run seeds as they were found."""
    before = [(generator, generator.get_state()) for generator in _global_generators(task)]
    try:
        yield
    finally:
        for generator, state in before:
            generator.set_state(state)


@contextmanager
def _tf32(allow: bool) -> Iterator[None]:
    """TensorFloat-32 for matrix products on CUDA, where it is wanted and not on already.

    Torch has an old and a new setting, and refuses to read the old one where the two disagree. So the new one
    is read, and the old one written, which sets both.
    """
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    if not allow or before == "tf32":
        yield
        return
    matmul.allow_tf32 = True
    try:
        yield
    finally:
        matmul.allow_tf32 = False
        matmul.fp32_precision = "none"  # takes after torch.backends.fp32_precision, as it may have before
        if matmul.fp32_precision != before:
            matmul.fp32_precision = before


class _Run:
    """One run: what is done, and the objects that do it."""

    def __init__(
        self,
        task: TrainingTask,
        settings: TrainingSettings,
        callbacks: Sequence[Callback],
        accelerator: Accelerator,
    ) -> None:
        self.task, self.settings, self.accelerator = task, settings, accelerator
        self.callbacks = callbacks
        self.generators = _global_generators(task)
        self.optimizer = Optimizer(task.parameters(), settings, accelerator)
        folder = settings.run_folder
        self.folder = CheckpointFolder(folder, settings.checkpoints_total_limit) if folder else None
        self.done = self.resumed_at = 0
        self.last_checkpoint: Path | None = None

    def resume(self) -> None:
        """Take up the checkpoint that the settings name, or make sure that none is in the way."""
        path = checkpoint_to_resume(self.settings)
        if path is None:
            if self.settings.resume_from_checkpoint:
                logger.warning(
                    "there is no checkpoint in %s yet; the run begins anew", self.settings.run_folder
                )
            elif self.folder:
                self._make_room(self.folder)
            return
        found = read_checkpoint(path)
        check_agrees(found.agreed, self._agreed(), origin=path)
        if found.step > self.settings.max_train_steps:
            raise TrainingError(
                f"{path} has {found.step} steps behind it, and max_train_steps is "
                f"{self.settings.max_train_steps}; expected as many or more; raise it, or resume from an "
                "earlier checkpoint"
            )
        self.optimizer.load(found.tensors["parameters"], found.tensors["optimizer"], found.extras["scaler"])
        self.task.load_state(found.tensors.get("task", {}))
        for name, callback in self._named_callbacks().items():
            if name in found.extras["callbacks"]:
                callback.load_state(found.extras["callbacks"][name])
        self.done = self.resumed_at = found.step
        self.last_checkpoint = path
        logger.info("resumed from %s: %d steps are done", path, found.step)

    def _make_room(self, folder: CheckpointFolder) -> None:
        """Remove what an earlier run left; that this is wanted is known by now."""
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            folder.clear()

    @contextmanager
    def tracking(self) -> Iterator[None]:
        """Trackers that are closed in any case."""
        main = self.accelerator.is_main_process
        self.accelerator.log_with = choose_trackers(
            self.settings.report_to,
            self.settings.log_folder,
            self.settings.tracker_project_name,
            resumed_at=self.resumed_at,
            writes=main,
        )
        records = {name: str(record.value) for name, record in self.settings.records().items()}
        try:
            if self.accelerator.log_with:
                self.accelerator.init_trackers(self.settings.tracker_project_name, config=records)
            yield
        finally:
            self._draw_log()
            for tracker in getattr(self.accelerator, "trackers", []):
                tracker.finish()

    def _draw_log(self) -> None:
        """A picture of the numbers so far, beside them; a training is not lost for want of one."""
        for tracker in self.accelerator.log_with or ():
            if not isinstance(tracker, JsonLinesTracker):
                continue
            try:
                draw_log(tracker.path)
            except (OSError, RuntimeError, ValueError) as error:
                logger.warning("the log %s is not drawn: %s", tracker.path, error)

    def advance(self, asked: int) -> tuple[Mapping[str, float], int]:
        """One optimizer step with everything around it.

        Args:
            asked: Signal that asked this process to stop, 0 if none did.

        Returns:
            Its losses, and the signal that asked any process to stop.
        """
        started = time.perf_counter()
        losses, stop = self._share(self._backward(), asked)
        self._check_finite(losses)
        numbers: dict[str, float] = {}
        around = None
        if isinstance(self.task, StepsItself):
            task = self.task
            around = lambda step: numbers.update(task.around_step(step))  # noqa: E731
        rate, norm = self.optimizer.step(self.done, around)
        losses = {**losses, **numbers}
        self.done += 1
        seconds = time.perf_counter() - started
        self._tell(StepReport(self.done, self.settings.max_train_steps, losses, rate, norm, seconds))
        last = self.done == self.settings.max_train_steps
        if (last or self.done % self.settings.checkpointing_steps == 0) and not stop:
            self.save()
            if not last:  # after the last one, the end of tracking draws
                self._draw_log()
        return losses, stop

    def _backward(self) -> dict[str, Tensor]:
        """Gradients of this process, and its losses as means over the accumulated passes."""
        settings, here = self.settings, self.accelerator
        means: dict[str, Tensor] = {}
        for turn in range(settings.gradient_accumulation_steps):
            first = (turn * here.num_processes + here.process_index) * settings.train_batch_size
            draws = StepDraws.at(settings.seed, self.done, batch=settings.train_batch_size, first=first)
            for generator in self.generators:
                generator.manual_seed(derived_seed(settings.seed, self.done, "dropout", first))
            with here.autocast():
                losses = self.task.losses(draws)
            here.backward(losses[TOTAL])
            for name, value in losses.items():
                share = value.detach().float() / settings.gradient_accumulation_steps
                means[name] = means[name] + share if name in means else share
        return means

    def _share(self, losses: Mapping[str, Tensor], asked: int) -> tuple[dict[str, float], int]:
        """Gradients and losses averaged over all processes, and whether any of them was asked to stop."""
        values = torch.stack([*losses.values()])
        if self.accelerator.num_processes == 1:
            return dict(zip(losses, values.tolist(), strict=True)), asked
        self.optimizer.average_gradients()
        means = self.accelerator.reduce(values, reduction="mean").tolist()
        flag = torch.tensor(float(asked), device=values.device)
        return dict(zip(losses, means, strict=True)), int(
            self.accelerator.reduce(flag, reduction="max").item()
        )

    def _check_finite(self, losses: Mapping[str, float]) -> None:
        broken = [f"{name} = {value}" for name, value in losses.items() if not abs(value) < float("inf")]
        if broken:
            raise TrainingError(
                f"the loss of step {self.done + 1} is not finite ({', '.join(broken)}); expected a number; "
                f"lower learning_rate, or train in another mixed_precision than "
                f"{self.settings.mixed_precision!r}"
            )

    def _tell(self, report: StepReport) -> None:
        numbers = report.numbers
        for callback in self.callbacks:
            if callback.everywhere or self.accelerator.is_main_process:
                numbers.update(callback.on_step(report) or {})
        if self.accelerator.log_with:
            self.accelerator.log(numbers, step=report.step)

    def save(self) -> Path | None:
        """Write a checkpoint, if the run has a folder; every process waits until it is there."""
        if self.folder is None:
            return None
        if self.accelerator.is_main_process:
            parameters, moments, scaler = self.optimizer.state()
            tensors = {"parameters": parameters, "optimizer": moments, "task": dict(self.task.state())}
            extras = {
                "scaler": scaler,
                "callbacks": {n: c.state() for n, c in self._named_callbacks().items()},
            }
            kept = {name: held for name, held in tensors.items() if held}
            self.last_checkpoint = self.folder.save(Checkpoint(self.done, kept, self._agreed(), extras))
        self.accelerator.wait_for_everyone()
        return self.last_checkpoint

    def _named_callbacks(self) -> dict[str, Callback]:
        return {
            f"{number}.{type(callback).__name__}": callback for number, callback in enumerate(self.callbacks)
        }

    def _agreed(self) -> dict[str, Any]:
        return agreed_facts(self.settings, self.task.identity(), processes=self.accelerator.num_processes)
