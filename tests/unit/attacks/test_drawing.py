"""Pictures of text states leave the model that draws them as it was."""

from __future__ import annotations

import torch
from diffusers import StableDiffusionPipeline

from diffusers_erasure.attacks.drawing import Drawing
from diffusers_erasure.diffusion.components import DiffusionComponents


def test_what_moves_while_it_draws_stays_trainable(tiny_pipe: StableDiffusionPipeline) -> None:
    """As `enable_model_cpu_offload` moves a part just before it is used."""

    def move(unet: torch.nn.Module, *_: object) -> None:
        unet.double().float()

    drawing = Drawing.on(DiffusionComponents.from_pipeline(tiny_pipe), steps=2, guidance_scale=4.0)
    states = torch.randn(1, 7, tiny_pipe.unet.config.cross_attention_dim)
    with tiny_pipe.unet.register_forward_pre_hook(move):
        drawing(states, states[0], [1])
    tiny_pipe.unet(torch.randn(1, 4, 8, 8), 1, states).sample.square().mean().backward()
    assert all(parameter.grad is not None for parameter in tiny_pipe.unet.parameters())
