"""UnlearnDiffAtk's search (arXiv:2310.11868) for one prompt, one formula after the other.

Random numbers are taken from the generator as our search takes them (at each noise level all noise, then
one uniform number per token and step), so that both see the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .simplex import project_by_bisection


def literal_search(
    components: Any, prompt: Any, latents: Tensor, generator: torch.Generator, config: Any
) -> tuple[list[int], list[float]]:
    """Most probable tokens after the last step, and the loss of every step."""
    tokenizer, encoder, unet = components.tokenizer, components.text_encoder, components.unet
    layer = encoder.get_input_embeddings()
    table = layer.weight.detach()
    special = set(tokenizer.all_special_ids)
    ordinary = [token for token in range(len(table)) if token not in special]
    points = torch.zeros(config.tokens, len(table))
    points[:, ordinary] = 1 / len(ordinary)
    points.requires_grad_(True)
    optimizer = torch.optim.Adam([points], lr=config.learning_rate, weight_decay=config.weight_decay)
    alphas = torch.cumprod(1 - components.scheduler.betas, 0)
    losses = []
    for level in range(config.timesteps):
        t = int((level + 0.5) * 1000 / config.timesteps)
        noises = torch.randn((config.iterations, *latents.shape), generator=generator)
        draws = torch.rand((config.iterations, config.tokens), generator=generator)
        for noise, draw in zip(noises, draws, strict=True):
            tokens = [_token(row, number) for row, number in zip(points.tolist(), draw.tolist(), strict=True)]
            one_hot = torch.zeros_like(points)
            one_hot[range(config.tokens), tokens] = 1
            one_hot.requires_grad_(True)
            rows = [table[token] for token in prompt.ids.tolist()]
            for number, position in enumerate(prompt.positions):
                rows[position] = one_hot[number] @ table
            sequence = torch.stack(rows)[None]
            handle = layer.register_forward_hook(lambda *_, s=sequence: s)
            states = encoder(prompt.ids[None]).last_hidden_state
            handle.remove()
            noisy = alphas[t].sqrt() * latents + (1 - alphas[t]).sqrt() * noise
            predicted = unet(noisy[None], torch.tensor(t), encoder_hidden_states=states).sample[0]
            loss = ((_said(components, latents, noise, alphas[t]) - predicted) ** 2).mean()
            (gradient,) = torch.autograd.grad(loss, one_hot)
            points.grad = torch.nn.functional.hardtanh(gradient)
            optimizer.step()
            moved = []
            for row in points.tolist():
                projected = project_by_bisection([row[token] for token in ordinary])
                full = [0.0] * len(table)
                for token, value in zip(ordinary, projected, strict=True):
                    full[token] = value
                moved.append(full)
            points.data = torch.tensor(moved)
            losses.append(loss.item())
    return points.argmax(dim=1).tolist(), losses


def _said(components: Any, latents: Tensor, noise: Tensor, alpha: Tensor) -> Tensor:
    """What the network should say: the noise, or the velocity."""
    if components.scheduler.config.prediction_type == "epsilon":
        return noise
    return alpha.sqrt() * noise - (1 - alpha).sqrt() * latents


def _token(row: list[float], number: float) -> int:
    """The first token whose cumulated probability exceeds the number."""
    total = 0.0
    wanted = number * sum(row)
    for token, probability in enumerate(row):
        total += probability
        if total > wanted:
            return token
    raise AssertionError("the probabilities do not sum to what they sum to")
