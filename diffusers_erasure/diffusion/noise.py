"""What a UNet says about the noise, in the terms that it was trained in.

Diffusion models noise a latent `z_0` as

    z_t = a_t z_0 + s_t e        with a_t = sqrt(alphas_cumprod[t]), s_t = sqrt(1 - alphas_cumprod[t])

Stable Diffusion 1.x predicts the noise `e`; some 2.x models predict `v = a_t e - s_t z_0` (Salimans and Ho,
arXiv:2202.00512, appendix D), from which `e = a_t v + s_t z_t`. The papers of this field are written for `e`.
Guidance and the targets of erasure are sums of predictions whose weights add up to one, so they are the same
sums for `v`; losses are differences of predictions. Both are taken of what the model itself says, as
diffusers' own training scripts do. Turned into noise first, a v model's loss would weigh `a_t²`: 0.006 at
t = 981, where it is decided what a picture is of. Only a step of sampling needs the noise (`moved`).

Classifier-free guidance (Ho and Salimans, arXiv:2207.12598) takes `e_0 + scale (e_c - e_0)`, with `e_0` for
the unconditional prompt and `e_c` for the prompt; both halves go through the UNet as one batch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, Self, cast

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from diffusers_erasure.errors import ConfigError

from .components import DiffusionComponents
from .schedule import ddim_step, training_scheduler

PredictionType = Literal["epsilon", "v_prediction"]


def add_noise(latents: Tensor, noise: Tensor, timesteps: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """`a_t z_0 + s_t e`.

    Args:
        latents: Clean latents `z_0`, `(batch, channels, height, width)`.
        noise: `e`, of the same shape.
        timesteps: `(batch,)`.
        alphas_cumprod: `(train timesteps,)`.
    """
    signal, spread = _levels(timesteps, alphas_cumprod, latents)
    return signal * latents + spread * noise


def noise_from_output(
    output: Tensor,
    latents: Tensor,
    timesteps: Tensor,
    alphas_cumprod: Tensor,
    prediction_type: PredictionType,
) -> Tensor:
    """The noise that a UNet's output stands for, `(batch, channels, height, width)`."""
    if prediction_type == "epsilon":
        return output
    signal, spread = _levels(timesteps, alphas_cumprod, output)
    return signal * output + spread * latents


def _levels(timesteps: Tensor, alphas_cumprod: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """`a_t` and `s_t` of each row, `(batch, 1, 1, 1)`."""
    level = alphas_cumprod.to(like.device)[timesteps.to(like.device)].to(like.dtype).reshape(-1, 1, 1, 1)
    return level.sqrt(), (1 - level).sqrt()


class Evaluations:
    """Counter of UNet evaluations, one for each sample of a batch."""

    def __init__(self) -> None:
        self.forward = 0


OF_PROCESS = Evaluations()
"""Everything that any predictor of this process was asked: what a training costs, whatever it is made of."""


class _GradientScale:
    """Keeps gradients within float16's range while they pass through a float16 UNet.

    A mean over a batch of predictions has gradients of 1e-6, of which float16 keeps a few bits or nothing. On
    its way into the UNet a gradient is divided by its largest entry, rounded to a power of two, so that not
    a bit is lost, and on its way out multiplied by the same. Both happen in float32. A UNet whose own weights
    take gradients is left alone: theirs would be divided, too.

    Args:
        wanted: Whether the UNet needs it; nothing is done otherwise.
    """

    def __init__(self, wanted: bool) -> None:
        self.wanted = wanted
        self._factor: Tensor | None = None

    def enter(self, output: Tensor) -> Tensor:
        """What the UNet gave, in float32: backward passes enter here."""
        if self.wanted and output.requires_grad:
            output.register_hook(self._divided)
        return output

    def leave(self, given: Tensor) -> Tensor:
        """What the UNet is given, in float32 from here on back: backward passes leave here."""
        if not (self.wanted and given.requires_grad):
            return given
        own = given.float().view_as(given)
        own.register_hook(self._multiplied)
        return own

    def _divided(self, gradient: Tensor) -> Tensor:
        largest = gradient.abs().amax().clamp_min(torch.finfo(gradient.dtype).tiny)
        self._factor = largest.log2().ceil().exp2()
        return gradient / self._factor

    def _multiplied(self, gradient: Tensor) -> Tensor:
        return gradient if self._factor is None else gradient * self._factor


@dataclass(frozen=True)
class NoisePredictor:
    """A UNet as a function from noisy latents, timesteps and text states to noise, or to v if it says that.

    Weights are neither frozen nor cast here: whoever optimises something else should keep gradients off them
    (`frozen`), which halves the cost of a backward pass.

    Attributes:
        unet: The network.
        alphas_cumprod: Share of signal that is left at each timestep, `(train timesteps,)`, float32.
        prediction_type: What the network's output means.
        counter: What `evaluations` reads; predictors that share a counter are counted together.
    """

    unet: UNet2DConditionModel
    alphas_cumprod: Tensor
    prediction_type: PredictionType = "epsilon"
    counter: Evaluations = field(default_factory=Evaluations, compare=False, repr=False)

    @classmethod
    def of(cls, components: DiffusionComponents, *, unet: UNet2DConditionModel | None = None) -> Self:
        """The predictor of a pipeline's UNet, or of another one with the same schedule.

        Raises:
            ConfigError: The model predicts something that noise cannot be computed from.
        """
        scheduler = training_scheduler(components.scheduler)
        return cls(
            unet=components.unet if unet is None else unet,
            alphas_cumprod=scheduler.alphas_cumprod.float(),
            prediction_type=cast(PredictionType, scheduler.config.prediction_type),
        )

    @cached_property
    def dtype(self) -> torch.dtype:
        """What the UNet computes in; read once, since diffusers looks through every layer to find it."""
        dtype: torch.dtype = self.unet.dtype
        return dtype

    @property
    def evaluations(self) -> int:
        """Samples that went through the UNet so far."""
        return self.counter.forward

    def reset(self) -> None:
        """Count from zero again."""
        self.counter.forward = 0

    def __call__(self, latents: Tensor, timesteps: Tensor, states: Tensor) -> Tensor:
        """The UNet's prediction `(batch, channels, height, width)`, float32, differentiable in every input.

        Args:
            latents: `(batch, channels, height, width)`.
            timesteps: `(batch,)`, or one for all.
            states: `(batch, tokens, width)`, or `(tokens, width)` for all.
        """
        batch = latents.shape[0]
        device, dtype = self.unet.device, self.dtype
        times = torch.as_tensor(timesteps, device=device).expand(batch)
        inputs = latents.to(device)
        self.counter.forward += batch
        OF_PROCESS.forward += batch
        scale = _GradientScale(dtype is torch.float16 and not takes_gradients(self.unet))
        output = self.unet(
            scale.leave(inputs).to(dtype),
            times,
            encoder_hidden_states=scale.leave(one_per_latent(states, batch).to(device)).to(dtype),
        ).sample
        return scale.enter(output.float())

    def wanted(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the UNet should say of noise that was added: the noise, or `v = a_t e - s_t z_0`.

        Args:
            latents: Clean latents `z_0`, `(batch, channels, height, width)`.
            noise: `e`, of the same shape.
            timesteps: `(batch,)`.
        """
        if self.prediction_type == "epsilon":
            return noise
        signal, spread = _levels(timesteps, self.alphas_cumprod, latents)
        return signal * noise - spread * latents

    def moved(self, latents: Tensor, predicted: Tensor, timestep: int, previous: int) -> Tensor:
        """Latents after one DDIM step along a prediction of this UNet, guided or not; see `ddim_step`."""
        told = torch.full((len(latents),), timestep, device=latents.device)
        noise = noise_from_output(predicted, latents, told, self.alphas_cumprod, self.prediction_type)
        return ddim_step(latents, noise, timestep, previous, self.alphas_cumprod)

    def both(
        self, latents: Tensor, timesteps: Tensor, states: Tensor, unconditional: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Predictions for the prompts and for the unconditional prompt, `(e_c, e_0)`, as one batch.

        Args:
            latents: `(batch, channels, height, width)`.
            timesteps: `(batch,)`, or one for all.
            states: `(batch, tokens, width)`, or `(tokens, width)` for all.
            unconditional: States of the unconditional prompt, likewise.
        """
        batch = latents.shape[0]
        times = torch.as_tensor(timesteps, device=latents.device).expand(batch)
        conditional = one_per_latent(states, batch)
        other = one_per_latent(unconditional, batch).to(conditional.device, conditional.dtype)
        if other.shape != conditional.shape:
            raise ConfigError(
                f"unconditional states of shape {tuple(other.shape)} stand beside states of shape "
                f"{tuple(conditional.shape)}; both must have the same tokens and width to be one batch; pad "
                f"both prompts to the model's length"
            )
        said = self(torch.cat([latents] * 2), torch.cat([times] * 2), torch.cat([conditional, other]))
        with_prompt, without = said.chunk(2)
        return with_prompt, without

    def guided(
        self, latents: Tensor, timesteps: Tensor, states: Tensor, unconditional: Tensor, scale: float
    ) -> Tensor:
        """Classifier-free guidance, `e_0 + scale (e_c - e_0)`; at scale 1 the second half is not computed.

        Args:
            latents: `(batch, channels, height, width)`.
            timesteps: `(batch,)`, or one for all.
            states: `(batch, tokens, width)`, or `(tokens, width)` for all.
            unconditional: States of the unconditional prompt, likewise.
            scale: Guidance scale.
        """
        if scale == 1:
            return self(latents, timesteps, states)
        return guide(*self.both(latents, timesteps, states, unconditional), scale)


def guide(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """`e_0 + scale (e_c - e_0)`; at scale 1 exactly `e_c`."""
    if scale == 1:
        return conditional
    return unconditional + scale * (conditional - unconditional)


def evaluations_of(predictors: Iterable[NoisePredictor]) -> int:
    """UNet evaluations of several predictors; those that share a counter are counted once."""
    return sum(counter.forward for counter in {one.counter for one in predictors})


def takes_gradients(unet: UNet2DConditionModel) -> bool:
    """Whether a backward pass makes gradients of weights."""
    return any(weight.requires_grad for weight in unet.parameters())


def one_per_latent(states: Tensor, batch: int) -> Tensor:
    """Text states for every row, `(batch, tokens, width)`.

    Args:
        states: `(batch, tokens, width)`, or one row or `(tokens, width)` for all.
        batch: Number of latents.

    Raises:
        ConfigError: There are neither as many rows nor one.
    """
    stacked = states if states.ndim == 3 else states.unsqueeze(0)
    if stacked.ndim != 3 or stacked.shape[0] not in (1, batch):
        raise ConfigError(
            f"text states have the shape {tuple(states.shape)} for {batch} latents; expected one row for "
            f"each latent, or one for all: ({batch}, tokens, width); repeat the states to the batch"
        )
    return stacked.expand(batch, -1, -1)
