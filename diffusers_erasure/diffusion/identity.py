"""What stored latents, pictures and outcomes were made from, so that they serve nothing else.

A bank is only right for the model that made it. Each origin has a digest of its own, so that a refusal can
say which of them differs.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from .components import DiffusionComponents
from .text import TokenizedPrompt
from .trajectories import TrajectorySource


def weights_digest(module: Any) -> str:
    """sha256 over all weights of a module by name, dtype, shape and bytes.

    Args:
        module: Any module (diffusers does not type its models as one).
    """
    weights: dict[str, Tensor] = dict(module.state_dict())
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        digests = pool.map(_tensor_digest, weights.values())
        lines = "\n".join(sorted(f"{name} {digest}" for name, digest in zip(weights, digests, strict=True)))
    return hashlib.sha256(lines.encode()).hexdigest()


def origins(
    components: DiffusionComponents,
    source: TrajectorySource,
    prompts: Sequence[TokenizedPrompt],
    settings: Mapping[str, Any],
) -> dict[str, str]:
    """Digest of everything that a bank's content depends on, by what it is.

    Args:
        components: Whose UNet and text encoder.
        source: The noise schedule, what the UNet predicts, and a sampler if it is another UNet.
        prompts: As tokens, so that the tokenizer counts too.
        settings: What else decides the content, as JSON values.
    """
    predictor, sampler = source.predictor, source.sampler
    schedule = f"{_tensor_digest(predictor.alphas_cumprod)} {predictor.prediction_type}"
    if predictor.prediction_type != "epsilon":
        schedule += ", as predicted"  # older banks hold the noise that follows from it
    other = {} if sampler is None else {"sampler": weights_digest(sampler.unet)}
    return {
        "unet": weights_digest(components.unet),
        "text_encoder": weights_digest(components.text_encoder),
        "schedule": text_digest(schedule),
        "prompts": text_digest(json.dumps([prompt.ids for prompt in prompts])),
        "settings": text_digest(json.dumps(settings, sort_keys=True)),
        **other,
    }


def facts_beside_weights(scheduler: Any, tokenizer: Any) -> dict[str, Any]:
    """What a picture depends on beside the weights of its pipeline, as JSON values.

    Args:
        scheduler: Draws.
        tokenizer: Reads prompts.
    """
    settings = json.loads(json.dumps(dict(scheduler.config), sort_keys=True, default=str))
    return {
        "scheduler": [type(scheduler).__name__, settings],
        "tokenizer": [type(tokenizer).__name__, tokenizer.model_max_length, len(tokenizer)],
    }


def text_digest(text: str) -> str:
    """sha256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def seed_from(*parts: object) -> int:
    """A seed for `torch.Generator` that depends on all of the parts and on nothing else."""
    return int(text_digest("/".join(map(str, parts)))[:15], 16)


def _tensor_digest(tensor: Tensor) -> str:
    plain = tensor.detach().to("cpu").contiguous()
    digest = hashlib.sha256(f"{plain.dtype} {tuple(plain.shape)}\0".encode())
    digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
