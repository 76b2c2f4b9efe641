"""What a run must have in common with the one that it continues."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusers_erasure.artifacts.fingerprint import fingerprint
from diffusers_erasure.diffusion import DiffusionComponents

from .settings import TrainingSettings

_SPLIT = ("train_batch_size", "gradient_accumulation_steps", "max_train_steps", "preset", "lr_warmup_steps")


def agreed_facts(
    settings: TrainingSettings, identity: Mapping[str, Any], *, processes: int
) -> dict[str, Any]:
    """Everything that shapes the result, as JSON.

    How the batch is spread over processes and passes is free, as long as it is the same batch. The number of
    steps is free where nothing depends on it.

    Args:
        settings: Of the run.
        identity: What the task says of itself: base model, concepts.
        processes: How many train together.
    """
    facts = agreed_settings(settings)
    facts["global batch"] = settings.train_batch_size * settings.gradient_accumulation_steps * processes
    return {**facts, **{f"base {name}": value for name, value in identity.items()}}


def agreed_settings(settings: TrainingSettings) -> dict[str, Any]:
    """The part of it that the settings alone decide."""
    facts: dict[str, Any] = {
        name: record.value for name, record in settings.records().items() if name not in _SPLIT
    }
    facts["seed"] = settings.seed
    if settings.lr_scheduler != "constant":
        facts["lr_warmup_steps"] = settings.lr_warmup_steps
    if settings.depends_on_steps:
        facts["max_train_steps"] = settings.max_train_steps
    return facts


def fingerprints(components: DiffusionComponents) -> dict[str, str]:
    """Fingerprints of the base model's networks that a run reads, by component."""
    parts = {"text_encoder": components.text_encoder, "unet": components.unet}
    return {name: fingerprint(part) for name, part in parts.items()}
