"""The soft prompt attack of AdvUnlearn (arXiv:2405.15234) for one prompt, as its text says it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def literal_soft_prompt(
    components: Any,
    ids: Tensor,
    positions: Sequence[int],
    start: Tensor,
    draws: Sequence[tuple[Tensor, Tensor, Tensor]],
    *,
    learning_rate: float,
    rule: str,
    added: bool = False,
) -> Tensor:
    """Embeddings after one step per draw (latents, timestep, target): Adam, or a signed step."""
    encoder, unet = components.text_encoder, components.unet
    delta = start.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([delta], lr=learning_rate)
    layer = encoder.get_input_embeddings()
    table = layer.weight.detach()
    for latents, timestep, target in draws:
        rows = [table[token] for token in ids.tolist()]
        for number, position in enumerate(positions):
            rows[position] = rows[position] + delta[number] if added else delta[number]
        sequence = torch.stack(rows)[None]
        handle = layer.register_forward_hook(lambda *_, s=sequence: s)
        states = encoder(ids[None]).last_hidden_state
        handle.remove()
        predicted = unet(latents, timestep, encoder_hidden_states=states).sample
        loss = ((predicted - target) ** 2).mean()
        (gradient,) = torch.autograd.grad(loss, delta)
        if rule == "adam":
            delta.grad = gradient
            optimizer.step()
        else:
            delta = (delta - learning_rate * gradient.sign()).detach().requires_grad_(True)
    return delta.detach()
