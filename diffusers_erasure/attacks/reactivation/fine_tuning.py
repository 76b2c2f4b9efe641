"""Fine-tuning an erased model as anybody would who wants to teach it something else.

The plain denoising loss on pictures with their prompts, nothing about the concept:

    L = E ‖ ε − ε_θ(a_t z_0 + s_t ε, t, c) ‖²        t uniform, ε normal

A model that predicts v learns v. Benign fine-tuning was found to bring erased concepts back (arXiv
2410.08074; few pictures are enough, arXiv 2505.16174). Weights are those of the whole UNet, of UNet and text
encoder, or a LoRA (arXiv 2106.09685) on the UNet's attention, with AdamW and the defaults of diffusers' own
scripts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusers_erasure.diffusion.attention import plain_attention
from diffusers_erasure.diffusion.components import DiffusionComponents
from diffusers_erasure.diffusion.noise import NoisePredictor, add_noise
from diffusers_erasure.diffusion.text_path import TextPath
from diffusers_erasure.errors import ConfigError, MissingDependencyError
from diffusers_erasure.settings import Settings, setting

from .copies import private_copy
from .fine_tuning_state import keep_state, take_up

Way = Literal["lora", "full"]
SCRIPT = "train_text_to_image.py of diffusers"
LORA_SCRIPT = "train_text_to_image_lora.py of diffusers"
LORA_LAYERS = ("to_q", "to_k", "to_v", "to_out.0")
ADAPTER = "fine_tuned"
KEPT_EVERY = 300.0
"""Seconds after which a fine-tuning is kept, whether or not it is at a milestone."""


class FineTuningConfig(Settings):
    """How an erased model is fine-tuned; defaults are those of diffusers' scripts where a source is named."""

    pictures: int = setting(16, "pictures that are learned from", ge=1)
    batch_size: int = setting(4, "pictures of each step", ge=1)
    learning_rate: float = setting(1e-4, "learning rate of full fine-tuning", source=SCRIPT, gt=0)
    lora_learning_rate: float = setting(1e-4, "learning rate of a LoRA", source=LORA_SCRIPT, gt=0)
    weight_decay: float = setting(0.01, "weight decay of AdamW", source=SCRIPT, ge=0)
    max_grad_norm: float = setting(1.0, "gradients are cut to this norm", source=SCRIPT, gt=0)
    rank: int = setting(4, "rank of the LoRA; its alpha is the same", source=LORA_SCRIPT, ge=1)
    train_text_encoder: bool = setting(False, "full fine-tuning changes the text encoder's weights too")
    seed: int = setting(0, "seed of pictures, noise and the LoRA's first weights", ge=0)


@dataclass(frozen=True)
class TuningPictures:
    """What is learned from.

    Attributes:
        latents: `(pictures, channels, height, width)`, scaled as the UNet takes them.
        prompts: One per picture.
    """

    latents: Tensor
    prompts: tuple[str, ...]


@dataclass(frozen=True)
class FineTuned:
    """The model after some steps; it goes on changing once the next one is asked for.

    Attributes:
        steps: Steps that were done.
        unet: The private UNet.
        text_encoder: The private text encoder, or the pipeline's own if that is not trained.
        loss_before: Loss on all pictures before the first step, with fixed timesteps and noise.
        loss_after: The same now.
    """

    steps: int
    unet: nn.Module
    text_encoder: nn.Module
    loss_before: float
    loss_after: float


def denoising_loss(
    predictor: NoisePredictor, latents: Tensor, states: Tensor, timesteps: Tensor, noise: Tensor
) -> Tensor:
    """Mean squared error of the predicted noise, or v, a scalar.

    Args:
        predictor: The UNet.
        latents: Clean latents, `(batch, channels, height, width)`.
        states: Text states, `(batch, tokens, width)`.
        timesteps: `(batch,)`.
        noise: Of the shape of the latents.
    """
    noisy = add_noise(latents, noise, timesteps, predictor.alphas_cumprod)
    wanted = predictor.wanted(latents, noise, timesteps)
    return F.mse_loss(predictor(noisy, timesteps, states), wanted)


def fine_tune(
    components: DiffusionComponents,
    data: TuningPictures,
    config: FineTuningConfig,
    *,
    way: Way,
    milestones: Sequence[int],
    report: Callable[[int], None] | None = None,
    state: Path | None = None,
) -> Iterator[FineTuned]:
    """Fine-tune copies, and show them after so many steps.

    With a file for its state an interrupted fine-tuning goes on from there, to the same weights.

    Args:
        components: The erased pipeline's parts; not changed.
        data: Pictures with prompts.
        config: Settings.
        way: LoRA or full.
        milestones: Rising numbers of steps after which the model is shown.
        report: Told the number of the step that is done.
        state: File that keeps it at each milestone and every few minutes, and goes with the last step; its
            name has to stand for all of the above but the milestones.

    Raises:
        ConfigError: The weights are not float32, in which AdamW's small steps would be lost.
        MissingDependencyError: A LoRA was asked for, and peft is not installed.
    """
    student = _student(components, config, way)
    generator = torch.Generator().manual_seed(config.seed)
    fixed = student.draw(data, torch.arange(len(data.prompts)), torch.Generator().manual_seed(config.seed))
    rate = config.lora_learning_rate if way == "lora" else config.learning_rate
    optimizer = torch.optim.AdamW(student.trained, lr=rate, weight_decay=config.weight_decay)
    place = (student.trained, optimizer, generator)
    kept = take_up(state, *place, at_most=milestones[0]) if state else None
    done, before = kept or (0, student.loss_on(fixed, config.batch_size))
    written = monotonic()
    for step in range(done, milestones[-1] + 1):
        if step > done:
            chosen = torch.randint(len(data.prompts), (config.batch_size,), generator=generator)
            student.learn(optimizer, student.draw(data, chosen, generator), config.max_grad_norm)
            if report:
                report(step)
            due = step in milestones or monotonic() - written > KEPT_EVERY
            if state and due and step < milestones[-1]:
                keep_state(state, *place, steps=step, loss_before=before)
                written = monotonic()
        if step in milestones:
            after = student.loss_on(fixed, config.batch_size)
            yield FineTuned(step, student.predictor.unet, student.text.encoder, before, after)
    if state:
        state.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Batch:
    latents: Tensor
    prompts: tuple[str, ...]
    timesteps: Tensor
    noise: Tensor

    def part(self, rows: slice) -> _Batch:
        return _Batch(self.latents[rows], self.prompts[rows], self.timesteps[rows], self.noise[rows])


@dataclass(frozen=True)
class _Student:
    """The copies in training; text states of an encoder that is not trained are computed once."""

    predictor: NoisePredictor
    text: TextPath
    trained: list[nn.Parameter]
    trains_text: bool
    known: dict[str, Tensor]

    def draw(self, data: TuningPictures, chosen: Tensor, generator: torch.Generator) -> _Batch:
        """Pictures with timesteps and noise, drawn on the CPU."""
        latents = data.latents[chosen.to(data.latents.device)]
        timesteps = torch.randint(len(self.predictor.alphas_cumprod), (len(chosen),), generator=generator)
        noise = torch.randn(latents.shape, generator=generator)
        prompts = tuple(data.prompts[index] for index in chosen.tolist())
        device = self.predictor.unet.device
        return _Batch(latents.to(device), prompts, timesteps.to(device), noise.to(device))

    def states(self, prompts: Sequence[str]) -> Tensor:
        """Text states of prompts, with gradients if the encoder is trained."""
        if self.trains_text:
            return self.text.encode(list(prompts))
        for prompt in dict.fromkeys(prompts):
            if prompt not in self.known:
                with torch.no_grad():
                    self.known[prompt] = self.text.encode(prompt)[0]
        return torch.stack([self.known[prompt] for prompt in prompts])

    def loss(self, batch: _Batch) -> Tensor:
        """Denoising loss of a batch, a scalar."""
        states = self.states(batch.prompts)
        return denoising_loss(self.predictor, batch.latents, states, batch.timesteps, batch.noise)

    def loss_on(self, batch: _Batch, size: int) -> float:
        """Mean loss over a large batch, without gradients."""
        count = len(batch.prompts)
        with torch.no_grad():
            parts = [batch.part(slice(at, at + size)) for at in range(0, count, size)]
            return sum(float(self.loss(part)) * len(part.prompts) for part in parts) / count

    def learn(self, optimizer: torch.optim.Optimizer, batch: _Batch, max_grad_norm: float) -> None:
        """One step."""
        with torch.enable_grad(), plain_attention(self.predictor.unet):
            optimizer.zero_grad(set_to_none=True)
            self.loss(batch).backward()
        nn.utils.clip_grad_norm_(self.trained, max_grad_norm)
        optimizer.step()


def _student(components: DiffusionComponents, config: FineTuningConfig, way: Way) -> _Student:
    """Private copies with the weights that are trained."""
    _check_float32(components)
    unet: Any = private_copy(components.unet)
    encoder: Any = components.text_encoder
    unet.requires_grad_(way == "full")
    trains_text = way == "full" and config.train_text_encoder
    if trains_text:
        encoder = private_copy(components.text_encoder).requires_grad_(True)
    if way == "lora":
        _add_lora(unet, config)
    modules = (unet, encoder) if trains_text else (unet,)
    trained = [weight for module in modules for weight in module.parameters() if weight.requires_grad]
    return _Student(
        predictor=NoisePredictor.of(components, unet=unet),
        text=TextPath(components, encoder=encoder),
        trained=trained,
        trains_text=trains_text,
        known={},
    )


def _check_float32(components: DiffusionComponents) -> None:
    found = {
        weight.dtype for part in (components.unet, components.text_encoder) for weight in part.parameters()
    }
    if found != {torch.float32}:
        names = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in found))
        raise ConfigError(
            f"the weights are {names}; fine-tuning needs float32, since AdamW's steps are smaller than what "
            "half precision can tell apart; load the base in float32"
        )


def _add_lora(unet: Any, config: FineTuningConfig) -> None:
    """Put a LoRA on the attention: down-projections normal with standard deviation 1 / rank, up ones zero."""
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise MissingDependencyError(
            "LoRA fine-tuning needs the package peft, which is not installed; expected it; run "
            "pip install 'diffusers-erasure[lora]', or choose other items"
        ) from error
    with torch.random.fork_rng(devices=[]):  # peft fills the weights from the global generator
        unet.add_adapter(
            LoraConfig(r=config.rank, lora_alpha=config.rank, target_modules=list(LORA_LAYERS)),
            adapter_name=ADAPTER,
        )
    generator = torch.Generator().manual_seed(config.seed)
    with torch.no_grad():
        for name, weight in unet.named_parameters():
            if "lora_A" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) / config.rank)
            elif "lora_B" in name:
                weight.zero_()
