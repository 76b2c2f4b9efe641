"""Settings of ESD, and its presets: see `esd` for the method and where the presets come from."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

from diffusers_erasure.diffusion import Alignment
from diffusers_erasure.embedded import EMBEDDED_MODEL_ID
from diffusers_erasure.settings import setting

from .latents import LatentsFrom
from .losses import TargetRule
from .settings import GradientTrainingConfig, Preset
from .student import StoredType


class ESDConfig(GradientTrainingConfig):
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
                    "max_train_steps": 200,
                    "learning_rate": 3e-4,
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

    train_method: str = setting(
        "esd-x",
        "which weights are trained: esd-x, esd-u, text_encoder_full, text_encoder_layer0, or another group",
    )
    scope: str = setting(
        "",
        "wider concept that stays and is erased from; empty is everything, for a style the prompt's subject",
        symbol="scope",
    )
    negative_guidance: float = setting(
        1.0, "how far the target is pushed away from the concept", symbol="η", source="arXiv:2303.07345", ge=0
    )
    target_rule: TargetRule = setting("paper", "formula of the target: the paper's, or the authors' code's")
    guidance_scale: float = setting(3.0, "classifier-free guidance while latents are sampled", ge=0)
    num_inference_steps: int = setting(50, "sampling steps of a whole run", ge=1)
    alignment: Alignment = setting(
        "aligned", "ask the UNet at the latent's own timestep, or as the authors' first code did (compvis)"
    )
    latents_from: LatentsFrom | None = setting(
        None,
        "who samples latents: student, frozen, or a pool of the frozen model's trajectories; student for the "
        "UNet and pool for the text encoder unless given",
    )
    pool_trajectories: int = setting(32, "trajectories of each prompt in a pool", ge=1)
    use_synonyms: bool = setting(False, "erase the concept's known synonyms too")
    num_templates: int | None = setting(
        0, "most wordings per word; 0 takes the bare word alone, None takes all", ge=0
    )
    artifact_dtype: StoredType = setting(
        "float32", "precision in which the changes are stored", recorded=False
    )
    validation_prompt: tuple[str, ...] = setting((), "prompt to draw during training", recorded=False)
    validation_steps: int = setting(100, "steps between these pictures", recorded=False, ge=1)
    num_validation_images: int = setting(2, "pictures of each validation prompt", recorded=False, ge=1)
