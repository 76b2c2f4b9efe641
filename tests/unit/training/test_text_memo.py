"""Remembered keys and values are the same, to the bit, and nothing of it stays."""

from __future__ import annotations

import torch
from diffusers import StableDiffusionPipeline

from diffusers_erasure.diffusion import DiffusionComponents, NoisePredictor, TextPath, partial_sample
from diffusers_erasure.diffusion.cross_attention import text_projections
from diffusers_erasure.training.text_memo import remembered_text


def test_sampling_gives_the_same_bits_with_fewer_projections(tiny_pipe: StableDiffusionPipeline) -> None:
    components = DiffusionComponents.from_pipeline(tiny_pipe)
    predictor, path = NoisePredictor.of(components), TextPath(components)
    states = path.encode(["dog", "owl"]).detach()
    noise = torch.randn((2, 4, 8, 8), generator=torch.Generator().manual_seed(0))
    calls: list[int] = []
    key = text_projections(components.unet)[0].key.removesuffix(".weight")
    layer = components.unet.get_submodule(key)
    inner = torch.nn.functional.linear

    def sample() -> torch.Tensor:
        return partial_sample(
            predictor, states, path.encode(""), noise=noise, step_index=[0, 2], steps=6, guidance_scale=3.0
        )[0]

    def counting(x: torch.Tensor) -> torch.Tensor:
        calls.append(len(x))
        return inner(x, layer.weight, layer.bias)

    plain = sample()
    layer.forward = counting
    with remembered_text(components.unet):
        remembered = sample()
    assert layer.forward is counting
    del layer.forward
    assert torch.equal(plain, remembered)
    assert calls == [4, 2]  # both prompts with the empty one, then the one that goes further
    modules = components.unet.modules()
    assert not any("forward" in module.__dict__ for module in modules)
    with torch.no_grad(), remembered_text(components.unet):
        first, other = (predictor(noise, torch.tensor(5), one) for one in (states, states.flip(0)))
    assert not torch.equal(first, other)
