"""Settings of ESD, and its presets: see `esd` for the method and where the presets come from."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

from diffusers_erasure.embedded import EMBEDDED_MODEL_ID
from diffusers_erasure.settings import setting

from .guided_settings import GuidedErasureConfig
from .losses import TargetRule
from .settings import Preset


class ESDConfig(GuidedErasureConfig):
    """Settings of ESD."""

    presets: ClassVar[Mapping[str, Preset]] = MappingProxyType(
        {
            "paper": Preset("arXiv:2303.07345"),
            "code": Preset(
                "the authors' present code",
                {
                    "max_train_steps": 200,
                    "learning_rate": 5e-5,
                    "negative_guidance": 2.0,
                    "target_rule": "code",
                    "latents_from": "frozen",
                },
            ),
            EMBEDDED_MODEL_ID: Preset(
                "for the 64-pixel model of this package",
                {
                    "max_train_steps": 80,
                    "learning_rate": 1e-4,
                    "train_batch_size": 4,
                    "num_inference_steps": 20,
                    "latents_from": "pool",
                    "pool_trajectories": 2,
                    "use_synonyms": True,
                    "num_templates": 4,
                },
            ),
        }
    )

    target_rule: TargetRule = setting("paper", "formula of the target: the paper's, or the authors' code's")
