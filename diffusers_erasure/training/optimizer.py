"""The optimizer of a run: its parameters by name, its steps, its state as plain tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from torch import Tensor, nn

from diffusers_erasure.errors import ConfigError, TrainingError

from .schedules import LearningRate
from .settings import TrainingSettings

AroundStep = Callable[[Callable[[], object]], None]
"""Makes a step of the optimizer, which it is given, and what a method puts around it."""
_BUCKET = 2**24  # elements that are averaged at once: 64 MB


class Optimizer:
    """Adam or AdamW over named parameters.

    Args:
        parameters: What is trained, by name.
        settings: Rates, decays, clipping.
        accelerator: Scales fp16 losses and averages over processes.

    Raises:
        ConfigError: There is nothing to train, or it is not float32.
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], settings: TrainingSettings, accelerator: Accelerator
    ) -> None:
        self.parameters = dict(sorted(parameters.items()))
        self.settings, self.accelerator = settings, accelerator
        _check_trainable(self.parameters)
        batch = settings.train_batch_size * settings.gradient_accumulation_steps * accelerator.num_processes
        self.rate = LearningRate(
            peak=settings.learning_rate * (batch if settings.scale_lr else 1),
            schedule=settings.lr_scheduler,
            steps=settings.max_train_steps,
            warmup=settings.lr_warmup_steps,
            cycles=settings.lr_num_cycles,
            power=settings.lr_power,
        )
        kind = torch.optim.Adam if settings.optimizer == "adam" else torch.optim.AdamW
        self.inner = kind(
            [*self.parameters.values()],
            lr=self.rate.peak,
            betas=(settings.adam_beta1, settings.adam_beta2),
            eps=settings.adam_epsilon,
            weight_decay=settings.adam_weight_decay,
        )
        self.prepared = accelerator.prepare_optimizer(self.inner, device_placement=False)

    def step(self, index: int, around: AroundStep | None = None) -> tuple[float, float]:
        """Clip, step, and forget the gradients.

        Args:
            index: Index of the step, from 0.
            around: Called with the step itself in place of it, to change gradients before and weights after.

        Returns:
            Learning rate and norm of the gradient before clipping.

        Raises:
            TrainingError: There is no gradient, or it is not finite and no loss scale is there to be lowered.
        """
        rate = self.rate.at(index)
        for group in self.inner.param_groups:
            group["lr"] = rate
        self.accelerator.unscale_gradients(self.prepared)
        limit = self.settings.max_grad_norm
        given = [p for p in self.parameters.values() if p.grad is not None]
        norm = float(nn.utils.clip_grad_norm_(given, math.inf if limit is None else limit)) if given else 0.0
        if not math.isfinite(norm) and self.accelerator.scaler is None:
            raise TrainingError(
                f"the gradient of step {index + 1} is not finite (norm {norm}); expected a number; lower "
                f"learning_rate, or train with mixed_precision 'no'"
            )
        if not given:
            raise TrainingError(
                f"no trained parameter has a gradient at step {index + 1}; expected the loss to depend on at "
                f"least one of {len(self.parameters)}; train another group of parameters"
            )
        if around is None:
            self.prepared.step()
        else:
            around(self.prepared.step)
        self.prepared.zero_grad(set_to_none=True)
        return rate, norm

    def average_gradients(self) -> None:
        """Replace every gradient by its mean over the processes, in a few exchanges of many at once."""
        has = torch.tensor(
            [float(parameter.grad is not None) for parameter in self.parameters.values()],
            device=next(iter(self.parameters.values())).device,
        )
        anywhere = self.accelerator.reduce(has, reduction="sum").tolist()
        taking = [p for p, count in zip(self.parameters.values(), anywhere, strict=True) if count]
        for bucket in _buckets(taking):
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket]
            flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
            parts = self.accelerator.reduce(flat, reduction="mean").split([p.numel() for p in bucket])
            for parameter, part in zip(bucket, parts, strict=True):
                parameter.grad = part.view_as(parameter)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any] | None]:
        """Parameters, moments, and the state of the loss scale where there is one."""
        moments: dict[str, Tensor] = {}
        names = list(self.parameters)
        for index, entries in self.inner.state_dict()["state"].items():
            moments.update({f"{key}:{names[index]}": value for key, value in entries.items()})
        scaler = self.accelerator.scaler
        return (
            {name: p.detach() for name, p in self.parameters.items()},
            moments,
            scaler and scaler.state_dict(),
        )

    def load(
        self, parameters: Mapping[str, Tensor], moments: Mapping[str, Tensor], scaler: dict[str, Any] | None
    ) -> None:
        """Take up what `state` gave.

        Raises:
            TrainingError: Names or shapes are not those of this run's parameters.
        """
        self._check_same(parameters)
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(parameters[name])
        numbers = {name: index for index, name in enumerate(self.parameters)}
        state: dict[int, dict[str, Tensor]] = {}
        for address, value in moments.items():
            key, _, name = address.partition(":")
            state.setdefault(numbers[name], {})[key] = value.clone()
        self.inner.load_state_dict({"state": state, "param_groups": self.inner.state_dict()["param_groups"]})
        if scaler is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(scaler)

    def _check_same(self, found: Mapping[str, Tensor]) -> None:
        wanted = {name: tuple(parameter.shape) for name, parameter in self.parameters.items()}
        there = {name: tuple(tensor.shape) for name, tensor in found.items()}
        if wanted != there:
            other = sorted(name for name in {*wanted, *there} if wanted.get(name) != there.get(name))
            raise TrainingError(
                f"the checkpoint holds other parameters than this run trains: {', '.join(other[:5])} "
                f"({len(other)} in all); expected the same names and shapes; resume with the same settings"
            )


def _check_trainable(parameters: Mapping[str, nn.Parameter]) -> None:
    if not parameters:
        raise ConfigError("there is nothing to train; expected at least one parameter; choose another group")
    for name, parameter in parameters.items():
        if parameter.dtype != torch.float32 or not parameter.requires_grad:
            raise ConfigError(
                f"the parameter {name} is {parameter.dtype} with requires_grad={parameter.requires_grad}; "
                f"expected float32 that takes gradients; load the base model in float32 (mixed_precision "
                f"speeds up the passes)"
            )


def _buckets(parameters: list[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Parameters in groups of at most so many elements, in order."""
    bucket: list[nn.Parameter] = []
    size = 0
    for parameter in parameters:
        if bucket and size + parameter.numel() > _BUCKET:
            yield bucket
            bucket, size = [], 0
        bucket.append(parameter)
        size += parameter.numel()
    if bucket:
        yield bucket
