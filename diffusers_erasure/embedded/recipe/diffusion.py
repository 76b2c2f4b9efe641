"""The UNet, trained on the scenes' latents with the text encoder kept as it is: from nothing, or further.

Noise prediction with weights close to min-SNR-5 (arXiv 2303.09556) and ten per cent empty captions. Each
caption of a batch serves two noise levels, which halves what the text costs.
"""

import random
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from diffusers_erasure.embedded.recipe.dataset import Scene
from diffusers_erasure.embedded.recipe.loop import Schedule, World, train
from diffusers_erasure.embedded.recipe.text import WIDTH, tokenize
from diffusers_erasure.errors import TrainingError

CHANNELS = (64, 112, 176)
_CAPTIONS = 20
_LEVELS = 1
_EMPTY = 0.10
_MIN_SNR = 5.0
_SEMANTIC = 0.2
_MOST = 12.0
_SCHEDULE = Schedule(steps=9000, learning_rate=1.2e-3, ema_decay=0.998)


def new_scheduler() -> DDIMScheduler:
    """Return the noise schedule of SD 1.x with DDIM sampling."""
    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
        clip_sample=False, set_alpha_to_one=False, steps_offset=1,
    )  # fmt: skip


def new_unet() -> UNet2DConditionModel:
    """Return the UNet with fresh weights: 16 x 16 latents, cross-attention on two of three levels."""
    return UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, layers_per_block=1,
        block_out_channels=CHANNELS, norm_num_groups=16, cross_attention_dim=WIDTH, attention_head_dim=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip


@dataclass(frozen=True)
class Lessons:
    """What a UNet learns from: pictures as latents, and captions as the text encoder reads them.

    Attributes:
        latents: Scaled latents of the pictures, `(count, 4, 16, 16)`.
        scenes: What each picture shows.
        tokenizer: Of the captions.
        text_encoder: Kept as it is.
    """

    latents: Tensor
    scenes: tuple[Scene, ...]
    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel

    def __post_init__(self) -> None:
        if not self.scenes or len(self.scenes) != len(self.latents):
            raise TrainingError(
                f"the UNet was given {len(self.scenes)} scenes and {len(self.latents)} latents; expected at "
                "least one scene, and one latent for each; encode the pictures of exactly these scenes"
            )


def train_diffusion(
    latents: Tensor,
    scenes: tuple[Scene, ...],
    tokenizer: CLIPTokenizer,
    text_encoder: CLIPTextModel,
    *,
    folder: Path,
    world: World,
) -> UNet2DConditionModel:
    """Train from nothing on scaled latents `(count, 4, 16, 16)` of the scenes' pictures."""
    torch.manual_seed(0)
    lessons = Lessons(latents, scenes, tokenizer, text_encoder)
    return continue_diffusion(
        new_unet(), lessons, _SCHEDULE, folder=folder / "diffusion", seed=2, world=world
    )


def continue_diffusion(
    unet: UNet2DConditionModel, lessons: Lessons, schedule: Schedule, *, folder: Path, seed: int, world: World
) -> UNet2DConditionModel:
    """Train a UNet from the weights that it has.

    Args:
        unet: Trained in place; float32.
        lessons: Pictures and captions.
        schedule: Steps, rates, averaging.
        folder: Checkpoints go to `folder/checkpoint`; a run that finds one goes on from it.
        seed: Of batches, noise and captions.
        world: The processes.

    Returns:
        The same UNet with its averaged weights, in eval mode.
    """
    unet.set_attn_processor(AttnProcessor())
    alphas = new_scheduler().alphas_cumprod
    latents, scenes = lessons.latents, lessons.scenes

    def step(_index: int, generator: torch.Generator) -> dict[str, Tensor]:
        chosen = torch.randint(len(scenes), (_CAPTIONS,), generator=generator)
        rng = random.Random(int(torch.randint(2**31, (1,), generator=generator)))
        ids = tokenize(lessons.tokenizer, [_caption(scenes[int(i)], rng) for i in chosen])
        clean = latents[chosen].repeat(_LEVELS, 1, 1, 1)
        timesteps = torch.randint(len(alphas), (clean.shape[0],), generator=generator)
        noise = torch.randn(clean.shape, generator=generator)
        alpha = alphas[timesteps].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        with torch.no_grad():
            states = lessons.text_encoder(ids).last_hidden_state.repeat(_LEVELS, 1, 1)
        with torch.autocast("cpu", torch.bfloat16):
            predicted = unet(noisy, timesteps, states, return_dict=False)[0]
        snr = alpha.flatten() / (1 - alpha.flatten())
        errors = (predicted.float() - noise).square().mean(dim=(1, 2, 3))
        return {"loss": (errors * level_weights(snr)).mean(), "mse": errors.detach().mean()}

    train(unet, step, schedule, folder=folder, seed=seed, world=world)
    unet.set_default_attn_processor()
    return unet


def level_weights(snr: Tensor) -> Tensor:
    """Weight of the noise error at each noise level, `(batch,)` for the levels' signal-to-noise ratios.

    Min-SNR-5, raised where noise prevails: there the words decide what is drawn, yet the error of the noise
    is so small that low levels would outvote them.
    """
    return ((snr.clamp(max=_MIN_SNR) + _SEMANTIC) / snr).clamp(max=_MOST)


def _caption(scene: Scene, rng: random.Random) -> str:
    return "" if rng.random() < _EMPTY else scene.caption(rng)
