"""Settings of AdvUnlearn, and its presets: see `advunlearn` for the method and whose the presets are."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, Literal, get_args

from pydantic import model_validator

from diffusers_erasure.attacks.soft_prompt import Descent, StepRule
from diffusers_erasure.diffusion import LayerPart, Placement, component_of
from diffusers_erasure.embedded import EMBEDDED_MODEL_ID
from diffusers_erasure.errors import ConfigError
from diffusers_erasure.settings import setting

from .retain_settings import RETAIN_SET, RetainSetConfig
from .settings import Preset
from .student import StoredType

Deviation = Literal["words", "lost_step", "summed_gradients", "latest_slice", "layer_prefix"]
"""What the authors' code does otherwise than the paper; see `advunlearn`."""
DEVIATIONS: tuple[Deviation, ...] = get_args(Deviation)
_PAPER = "arXiv:2405.15234"
_OBJECT: Mapping[str, object] = MappingProxyType(
    {"train_method": "text_encoder_layer0", "retain_weight": 0.5}
)


class AdvUnlearnConfig(RetainSetConfig):
    """Settings of AdvUnlearn."""

    presets: ClassVar[Mapping[str, Preset]] = MappingProxyType(
        {
            "object": Preset("the paper's, for objects: the first layer, γ = 0.5", _OBJECT),
            "style": Preset(
                "the paper's, for styles: the first layer, γ = 0.5", _OBJECT, made_for=("style",)
            ),
            "nudity": Preset("the paper's, for nudity: every layer, γ = 0.3", made_for=("nudity",)),
            "fast": Preset(
                "the paper's fast AT, for objects and styles: one signed step",
                {**_OBJECT, "attack_steps": 1, "attack_rule": "sign"},
            ),
            "reference": Preset(
                "the commands of the authors' code with everything that it does otherwise",
                {
                    "adversary_warmup_steps": 200,
                    "latents_from": "frozen",
                    "alignment": "compvis",
                    "deviations": DEVIATIONS,
                },
            ),
            EMBEDDED_MODEL_ID: Preset(
                "for the 64-pixel model of this package",
                {
                    "learning_rate": 1e-4,
                    "max_train_steps": 400,
                    "attack_steps": 10,
                    "attack_tokens": 3,
                    "retain_weight": 1.0,
                    "num_inference_steps": 20,
                    "pool_trajectories": 2,
                    "use_synonyms": True,
                    "num_templates": 4,
                },
            ),
        }
    )

    train_method: str = setting(
        "text_encoder_full",
        "which weights are trained: text_encoder_full, text_encoder_layer0, or a group of the UNet",
        source=_PAPER,
    )
    train_part: LayerPart = setting("all", "of a text encoder's layers: all, attn (attention) or ffn")
    attack_steps: int = setting(
        30, "steps of the adversary; 0 trains without one", symbol="K", source=_PAPER, ge=0
    )
    attack_learning_rate: float = setting(1e-3, "step size of the adversary", symbol="α", source=_PAPER, gt=0)
    attack_rule: StepRule = setting("adam", "how its gradient becomes a step; sign is the paper's fast AT")
    attack_tokens: int = setting(1, "free tokens of the adversary", symbol="k", source=_PAPER, ge=1)
    attack_placement: Placement = setting(
        Placement.PREFIX, "where they stand in the concept's prompt", source=_PAPER
    )
    attack_init: Literal["random", "latest"] = setting(
        "random", "start of the search: random tokens, or where the last one ended", source=_PAPER
    )
    attack_batch_size: int = setting(1, "latents that each of its steps looks at", ge=1)
    attack_every: int = setting(1, "iterations that one adversarial prompt serves", source=_PAPER, ge=1)
    adversary_warmup_steps: int = setting(
        0, "iterations on the plain concept before the adversary begins (the authors' code: 200)", ge=0
    )
    retain_mode: Literal["reg", "iter", "none"] = setting(
        "reg",
        "reg: the retain loss in every step; iter: steps of its own after each erasing step; none: no "
        "retain set",
        source=_PAPER,
    )
    retain_weight: float = setting(
        0.3, "weight of the retain loss (without effect in mode iter)", symbol="γ", source=_PAPER, ge=0
    )
    retain_steps: int = setting(1, "mode iter: retain steps after each erasing step", ge=1)
    frozen_dtype: StoredType | None = setting(
        None, "precision of the frozen UNet, the original's and the student's; as it is loaded unless given"
    )
    deviations: tuple[Deviation, ...] = setting(
        (), "what to do as the authors' code does it otherwise than the paper"
    )

    @property
    def descent(self) -> Descent:
        """How the adversary goes down."""
        return Descent(
            self.attack_steps,
            self.attack_learning_rate,
            self.attack_rule,
            sum_gradients="summed_gradients" in self.deviations,
            drop_last_step="lost_step" in self.deviations,
        )

    @property
    def stored_types(self) -> Mapping[str, str]:
        """The frozen UNet's precision, where a text encoder is trained."""
        return {} if self.frozen_dtype is None else {"unet": str(self.frozen_dtype)}

    @property
    def cycle(self) -> int:
        """Optimizer steps of an iteration: one, and in mode iter those of the retain set."""
        return 1 + (self.retain_steps if self.retain_mode == "iter" else 0)

    @property
    def idle(self) -> Mapping[str, tuple[str, ...]]:
        """See `GradientTrainingConfig`."""
        search = ("learning_rate", "rule", "tokens", "placement", "init", "batch_size", "every")
        found: dict[str, tuple[str, ...]] = {}
        if self.retain_mode != "iter":
            found[f"retain_mode {self.retain_mode}"] = ("retain_steps",)
        if self.retain_mode == "iter":
            found["retain_mode iter takes steps of its own"] = ("retain_weight",)
        if self.retain_mode == "none":
            found["retain_mode none"] = ("retain_weight", "retain_steps", *RETAIN_SET)
        if not self.attack_steps:
            found["attack_steps 0"] = (*(f"attack_{name}" for name in search), "adversary_warmup_steps")
        if component_of(self.train_method) == "unet":
            found[f"train_method {self.train_method}"] = ("train_part",)
        return found

    @model_validator(mode="after")
    def _fits(self) -> AdvUnlearnConfig:
        if self.frozen_dtype is not None and component_of(self.train_method) == "unet":
            raise ConfigError(
                f"frozen_dtype {self.frozen_dtype} with train_method {self.train_method} cannot be done: the "
                "UNet is what is trained; expected a text encoder's group; leave frozen_dtype out"
            )
        if self.attack_steps and self.adversary_warmup_steps * self.cycle >= self.max_train_steps:
            raise ConfigError(
                f"the adversary would begin after {self.adversary_warmup_steps} iterations, but the run has "
                f"{self.max_train_steps // self.cycle}; expected fewer; lower adversary_warmup_steps, or "
                "attack_steps 0 to train without an adversary"
            )
        return self
