"""The autoencoder: 64 x 64 RGB to 4 x 16 x 16 latents and back (`AutoencoderKL`, factor 4).

Squared error, a quarter of the absolute error and a very small KL term; half of the pictures are scenes of
the vocabulary, half are other emoji, so that it shows art that no caption names.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from diffusers_erasure.embedded.recipe.loop import Schedule, World, train
from diffusers_erasure.embedded.recipe.raster import Pixels

CHANNELS = (16, 32, 64)
_BATCH = 8
_KL_WEIGHT = 1e-6
_SCHEDULE = Schedule(steps=3600, learning_rate=2.5e-3, ema_decay=0.998, weight_decay=1e-4)


def new_vae() -> AutoencoderKL:
    """Return the autoencoder with fresh weights."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(CHANNELS),
        up_block_types=("UpDecoderBlock2D",) * len(CHANNELS),
        block_out_channels=CHANNELS,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
    )


def to_tensor(pictures: Pixels) -> Tensor:
    """`(count, height, width, 3)` uint8 to `(count, 3, height, width)` float32 in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def train_vae(scenes: Pixels, art: Pixels, *, folder: Path, world: World) -> AutoencoderKL:
    """Train on scenes and other art, both `(count, 64, 64, 3)` uint8; ends with the latents' scale set."""
    torch.manual_seed(0)
    vae = new_vae()

    def step(_index: int, generator: torch.Generator) -> dict[str, Tensor]:
        images = torch.cat([_draw(scenes, _BATCH // 2, generator), _draw(art, _BATCH // 2, generator)])
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(images).latent_dist
            latents = posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=generator)
            decoded = vae.decode(latents).sample
        decoded = decoded.float()
        squared, absolute = F.mse_loss(decoded, images), F.l1_loss(decoded, images)
        divergence = posterior.kl().float().mean() / images[0].numel()
        return {
            "loss": squared + 0.25 * absolute + _KL_WEIGHT * divergence,
            "psnr": 10 * torch.log10(4 / squared.detach()),
        }

    train(vae, step, _SCHEDULE, folder=folder / "vae", seed=1, world=world)
    deviation = encode(vae, scenes[:: max(1, len(scenes) // 2000)]).std()
    vae.register_to_config(scaling_factor=1 / float(deviation))
    return vae


def _draw(pictures: Pixels, count: int, generator: torch.Generator) -> Tensor:
    chosen = torch.randint(len(pictures), (count,), generator=generator).numpy()
    return to_tensor(pictures[np.sort(chosen)])


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: Pixels, batch: int = 64) -> Tensor:
    """Mean latents, unscaled: `(count, 4, 16, 16)` float32."""
    starts = range(0, len(pictures), batch)
    return torch.cat(
        [vae.encode(to_tensor(pictures[at : at + batch])).latent_dist.mean for at in starts]
    ).contiguous()


@torch.no_grad()
def decode(vae: AutoencoderKL, latents: Tensor, batch: int = 64) -> Pixels:
    """Pictures `(count, 64, 64, 3)` uint8 of unscaled latents."""
    parts = [vae.decode(latents[at : at + batch]).sample.clamp(-1, 1) for at in range(0, len(latents), batch)]
    pixels = ((torch.cat(parts) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)
    return pixels.numpy()


@torch.no_grad()
def psnr(vae: AutoencoderKL, pictures: Pixels, batch: int = 64) -> Tensor:
    """Peak signal-to-noise ratio in dB of each picture, decoded and clipped to [-1, 1]: `(count,)`."""
    values = []
    for at in range(0, len(pictures), batch):
        images = to_tensor(pictures[at : at + batch])
        decoded = vae.decode(vae.encode(images).latent_dist.mean).sample.clamp(-1, 1)
        values.append(10 * torch.log10(4 / (decoded - images).square().mean(dim=(1, 2, 3)).clamp_min(1e-8)))
    return torch.cat(values)
