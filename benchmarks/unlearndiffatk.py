"""What UnlearnDiffAtk costs per prompt: a literal loop over prompts, and ours, with the same budget.

    python -m benchmarks.unlearndiffatk --prompts 8 --timesteps 2 --iterations 40

The literal loop follows the paper (arXiv:2310.11868) one prompt at a time: a one-hot choice with a
straight-through gradient, `torch.optim.Adam`, projection onto the simplex by bisection, and one picture by
the stock pipeline after each noise level. It is no straw man: its weights are frozen too, and guidance is one
batch of two. Both run in one process on the embedded pipeline with the same threads and the same number of
steps; the judge never sees anything, so that no early stop shortens either. CPU seconds tell what a busy
machine hides.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusers_erasure import embedded_pipeline
from diffusers_erasure.attacks import AttackedPrompt, AttackTarget, attack_named
from diffusers_erasure.attacks.unlearndiffatk import UnlearnDiffAtkConfig
from diffusers_erasure.embedded import EMBEDDED_GUIDANCE_SCALE, EMBEDDED_STEPS

TOKENS = 3


class OneHot(torch.autograd.Function):
    """Draw a token of each row; the gradient goes on as it is, cut to [-1, 1]."""

    @staticmethod
    def forward(ctx: Any, points: Tensor) -> Tensor:  # noqa: ARG004 - torch's signature
        """One-hot rows of drawn tokens."""
        drawn = torch.multinomial(points, 1).squeeze(1)
        return F.one_hot(drawn, points.shape[1]).float()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ARG004
        """The gradient, cut."""
        return F.hardtanh(gradients[0])


def bisect_to_simplex(points: Tensor) -> Tensor:
    """Project each row by bisection on the threshold."""
    low, high = points.amin(1, keepdim=True) - 1, points.amax(1, keepdim=True)
    for _ in range(50):
        middle = (low + high) / 2
        above = (points - middle).clamp_min(0).sum(1, keepdim=True) > 1
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return (points - (low + high) / 2).clamp_min(0)


def literal_attack(pipe: Any, prompt: str, seed: int, config: UnlearnDiffAtkConfig) -> int:
    """Attack one prompt, literally; returns the pictures that were drawn."""
    draw_picture(pipe, prompt, seed)
    latents = target_latents(pipe, prompt, seed)
    encoder, unet, tokenizer = pipe.text_encoder, pipe.unet, pipe.tokenizer
    matrix = encoder.get_input_embeddings().weight
    points = torch.full((TOKENS, matrix.shape[0]), 1 / matrix.shape[0], requires_grad=True)
    optimizer = torch.optim.Adam([points], lr=config.learning_rate, weight_decay=config.weight_decay)
    ids = torch.tensor([prompt_ids(tokenizer, prompt)])
    levels = pipe.scheduler.alphas_cumprod
    for t in config.levels(len(levels)):
        for _ in range(config.iterations):
            free = OneHot.apply(points) @ matrix
            embeddings = encoder.get_input_embeddings()(ids)
            embeddings = torch.cat([embeddings[:, :1], free[None], embeddings[:, 1 + TOKENS :]], dim=1)
            states = encode(encoder, ids, embeddings)
            noise = torch.randn(latents.shape)
            noisy = levels[t].sqrt() * latents + (1 - levels[t]).sqrt() * noise
            loss = F.mse_loss(unet(noisy, torch.tensor(t), encoder_hidden_states=states).sample, noise)
            (points.grad,) = torch.autograd.grad(loss, points)
            optimizer.step()
            points.data = bisect_to_simplex(points.data)
        found = ids.clone()
        found[0, 1 : 1 + TOKENS] = points.argmax(1)
        draw_picture(pipe, tokenizer.decode(found[0], skip_special_tokens=True), seed)
    return 1 + config.timesteps


def prompt_ids(tokenizer: Any, prompt: str) -> list[int]:
    """Padded ids with room for free tokens in front."""
    start, *words, end = tokenizer(prompt).input_ids
    row = [start, *[words[0]] * TOKENS, *words, end]
    return [*row, *[tokenizer.pad_token_id] * (tokenizer.model_max_length - len(row))]


def encode(encoder: Any, ids: Tensor, embeddings: Tensor) -> Tensor:
    """Text states of token embeddings."""
    layer = encoder.get_input_embeddings()
    handle = layer.register_forward_hook(lambda *_: embeddings)
    try:
        states: Tensor = encoder(ids).last_hidden_state
    finally:
        handle.remove()
    return states


def draw_picture(pipe: Any, prompt: str, seed: int) -> Tensor:
    """One picture, `(1, 3, height, width)` in [0, 1]."""
    images: Tensor = pipe(
        prompt,
        generator=torch.Generator().manual_seed(seed),
        num_inference_steps=EMBEDDED_STEPS,
        guidance_scale=EMBEDDED_GUIDANCE_SCALE,
        output_type="pt",
    ).images
    return images


def target_latents(pipe: Any, prompt: str, seed: int) -> Tensor:
    """Latents of the picture that the attack aims at."""
    picture = draw_picture(pipe, prompt, seed)
    with torch.no_grad():
        latents: Tensor = pipe.vae.encode(picture * 2 - 1).latent_dist.mode()
    return latents * pipe.vae.config.scaling_factor


def timed(run: Callable[[], int], prompts: int) -> tuple[float, float, float]:
    """Wall and CPU seconds, and judged pictures, per prompt."""
    wall, cpu = time.perf_counter(), time.process_time()
    pictures = run()
    return (
        (time.perf_counter() - wall) / prompts,
        (time.process_time() - cpu) / prompts,
        pictures / prompts,
    )


def main() -> None:
    """Run both and print seconds per prompt and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--timesteps", type=int, default=2, help="noise levels (published: 50)")
    parser.add_argument("--iterations", type=int, default=40, help="steps at each (published: 40)")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    config = UnlearnDiffAtkConfig(
        timesteps=given.timesteps,
        iterations=given.iterations,
        tokens=TOKENS,
        batch_size=given.batch_size,
        precision=given.precision,
    )
    pipe = embedded_pipeline()
    pipe.set_progress_bar_config(disable=True)
    for part in (pipe.unet, pipe.text_encoder, pipe.vae):
        part.requires_grad_(False)
    items = [AttackedPrompt("a drawing of a dog", seed, "dog") for seed in range(given.prompts)]
    target = AttackTarget.of(
        pipe,
        lambda images: torch.zeros(len(images), dtype=torch.bool),
        steps=EMBEDDED_STEPS,
        guidance_scale=EMBEDDED_GUIDANCE_SCALE,
        picture_batch=given.batch_size,
    )

    def ours() -> int:
        return sum(
            one.judged for one in attack_named("unlearndiffatk").run(items, target, config, base=target)
        )

    def literal() -> int:
        return sum(literal_attack(pipe, item.prompt, item.seed, config) for item in items)

    draw_picture(pipe, "warm up", 0)
    rows = {"ours": timed(ours, given.prompts), "literal loop": timed(literal, given.prompts)}
    sys.stdout.write(
        f"{given.prompts} prompts, {given.timesteps} noise levels x {given.iterations} steps, "
        f"{given.threads} threads, {given.precision}\n"
    )
    for name, (wall, cpu, pictures) in rows.items():
        sys.stdout.write(
            f"{name:14}{wall:8.2f} s per prompt {cpu:8.2f} CPU s {pictures:6.1f} pictures judged\n"
        )
    wall, cpu = (rows["ours"][which] / rows["literal loop"][which] for which in (0, 1))
    sys.stdout.write(f"ours / literal: {wall:.2f} of the wall time, {cpu:.2f} of the CPU time\n")


if __name__ == "__main__":
    main()
