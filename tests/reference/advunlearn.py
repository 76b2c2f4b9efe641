"""One iteration of AdvUnlearn (arXiv:2405.15234, algorithm 1) on given draws, as the paper's text says it.

One sample at a time, every prediction of the original made anew, and the free tokens put before the concept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def literal_upper_loss(
    components: Any,
    student: Any,
    adversarial: Tensor,
    ids: Tensor,
    concept: str,
    erase: Sequence[tuple[Tensor, Tensor]],
    retain: Sequence[tuple[str, Tensor, Tensor]],
    *,
    eta: float,
    gamma: float,
) -> Tensor:
    """`L_ESD + γ L_retain` of a student text encoder.

    Args:
        components: The frozen original.
        student: The text encoder in training.
        adversarial: Token embeddings of the adversarial prompt, `(tokens, width)`.
        ids: Its token ids, `(tokens,)`.
        concept: The plain concept.
        erase: Latents and timestep of each erasing sample.
        retain: Prompt, latents and timestep of each retain sample.
        eta: η.
        gamma: γ.
    """
    unet = components.unet
    c, empty = original_states(components, concept), original_states(components, "")
    erased = []
    for z, t in erase:
        e_c = unet(z, t, encoder_hidden_states=c).sample
        e_0 = unet(z, t, encoder_hidden_states=empty).sample
        target = (e_0 - eta * (e_c - e_0)).detach()
        states = states_of(student, ids, adversarial)
        erased.append(((unet(z, t, encoder_hidden_states=states).sample - target) ** 2).mean())
    kept = []
    for prompt, z, t in retain:
        target = unet(z, t, encoder_hidden_states=original_states(components, prompt)).sample.detach()
        states = student(token_ids(components, prompt)).last_hidden_state
        kept.append(((unet(z, t, encoder_hidden_states=states).sample - target) ** 2).mean())
    loss = torch.stack(erased).mean()
    return loss + gamma * torch.stack(kept).mean() if kept else loss


def states_of(encoder: Any, ids: Tensor, embeddings: Tensor) -> Tensor:
    """Text states of given token embeddings."""
    layer = encoder.get_input_embeddings()
    handle = layer.register_forward_hook(lambda *_: embeddings[None])
    try:
        states: Tensor = encoder(ids[None]).last_hidden_state
    finally:
        handle.remove()
    return states


def token_ids(components: Any, prompt: str) -> Tensor:
    """Token ids as the stock pipeline pads them, `(1, tokens)`."""
    length = components.tokenizer.model_max_length
    encoded = components.tokenizer(
        prompt, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
    )
    ids: Tensor = encoded.input_ids
    return ids


@torch.no_grad()
def original_states(components: Any, prompt: str) -> Tensor:
    """Text states of the frozen original."""
    states: Tensor = components.text_encoder(token_ids(components, prompt)).last_hidden_state
    return states


def gradients(loss: Tensor, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gradient of each parameter."""
    found = torch.autograd.grad(loss, list(parameters.values()))
    return dict(zip(parameters, found, strict=True))
