"""Text encoder and UNet, trained together from nothing on the scenes' latents.

Noise prediction with min-SNR-5 weights (arXiv 2303.09556), ten per cent empty captions, the text encoder at
half the rate. Each caption of a batch serves two noise levels, because the text encoder is a third of a
step's cost.
"""

import random
from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from diffusers_erasure.embedded.recipe.dataset import Scene
from diffusers_erasure.embedded.recipe.loop import Schedule, World, train

CHANNELS = (64, 112, 176)
TEXT_WIDTH = 160
_CAPTIONS = 16
_LEVELS = 2
_EMPTY = 0.10
_MIN_SNR = 5.0
_SCHEDULE = Schedule(steps=5000, learning_rate=1.5e-3, slow=("text.",), ema_decay=0.999)


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
        block_out_channels=CHANNELS, norm_num_groups=16, cross_attention_dim=TEXT_WIDTH, attention_head_dim=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Return the text encoder with fresh weights: 4 layers of width 160, 77 tokens."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), max_position_embeddings=tokenizer.model_max_length,
        hidden_size=TEXT_WIDTH, intermediate_size=4 * TEXT_WIDTH, projection_dim=TEXT_WIDTH,
        num_hidden_layers=4, num_attention_heads=4, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return CLIPTextModel(config)


class TextToLatents(nn.Module):
    """Text encoder and UNet as one network, so that one optimizer and one average serve both."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.text = new_text_encoder(tokenizer)
        self.unet = new_unet()

    def forward(self, noisy: Tensor, timesteps: Tensor, ids: Tensor) -> Tensor:
        """Predict the noise: `(batch, 4, 16, 16)`; `ids` may have fewer rows, each then serves several."""
        states = self.text(ids).last_hidden_state
        states = states.repeat(noisy.shape[0] // states.shape[0], 1, 1)
        predicted: Tensor = self.unet(noisy, timesteps, states, return_dict=False)[0]
        return predicted


def train_diffusion(
    latents: Tensor, scenes: tuple[Scene, ...], tokenizer: CLIPTokenizer, *, folder: Path, world: World
) -> TextToLatents:
    """Train on scaled latents `(count, 4, 16, 16)` of the scenes' pictures."""
    torch.manual_seed(0)
    network = TextToLatents(tokenizer)
    network.unet.set_attn_processor(AttnProcessor())
    network.text.set_attn_implementation("eager")
    alphas = new_scheduler().alphas_cumprod

    def step(_index: int, generator: torch.Generator) -> dict[str, Tensor]:
        chosen = torch.randint(len(scenes), (_CAPTIONS,), generator=generator)
        rng = random.Random(int(torch.randint(2**31, (1,), generator=generator)))
        ids = _tokenize(tokenizer, [_caption(scenes[int(i)], rng) for i in chosen])
        clean = latents[chosen].repeat(_LEVELS, 1, 1, 1)
        timesteps = torch.randint(len(alphas), (clean.shape[0],), generator=generator)
        noise = torch.randn(clean.shape, generator=generator)
        alpha = alphas[timesteps].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        with torch.autocast("cpu", torch.bfloat16):
            predicted = network(noisy, timesteps, ids)
        snr = alpha.flatten() / (1 - alpha.flatten())
        errors = (predicted.float() - noise).square().mean(dim=(1, 2, 3))
        return {"loss": (errors * snr.clamp(max=_MIN_SNR) / snr).mean(), "mse": errors.detach().mean()}

    train(network, step, _SCHEDULE, folder=folder / "diffusion", seed=2, world=world)
    network.unet.set_default_attn_processor()
    network.text.set_attn_implementation("sdpa")
    return network


def _caption(scene: Scene, rng: random.Random) -> str:
    return "" if rng.random() < _EMPTY else scene.caption(rng)


def _tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    ids: Tensor = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
    return ids
