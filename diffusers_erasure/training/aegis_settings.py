"""Settings of AEGIS, and its presets: see `aegis` for the method and whose the presets are."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, Literal

from pydantic import model_validator

from diffusers_erasure.diffusion import Placement, component_of
from diffusers_erasure.embedded import EMBEDDED_MODEL_ID
from diffusers_erasure.errors import ConfigError
from diffusers_erasure.settings import setting

from .rectification import Memory, OmegaRule, Rectification, Scope
from .retain_settings import RETAIN_SET, RetainSetConfig
from .settings import Preset
from .student import StoredType

_PAPER = "arXiv:2602.06771"
LatentsFor = Literal["aet", "concept"]
Retained = Literal["projection", "penalty", "none"]
RetainedFrom = Literal["weights", "prompts"]


class AEGISConfig(RetainSetConfig):
    """Settings of AEGIS."""

    presets: ClassVar[Mapping[str, Preset]] = MappingProxyType(
        {
            "paper": Preset(_PAPER, {"train_method": "full"}),
            "released": Preset(
                "the command of the authors' code",
                {
                    "train_method": "full",
                    "attack_init": "random",
                    "omega_rule": "released",
                    "memory": "full",
                    "alignment": "compvis",
                },
            ),
            EMBEDDED_MODEL_ID: Preset(
                "for the 64-pixel model of this package",
                {
                    "train_method": "xattn",
                    "learning_rate": 2e-4,
                    "max_train_steps": 300,
                    "num_inference_steps": 20,
                    "latents_from": "pool",
                    "pool_trajectories": 2,
                    "use_synonyms": True,
                    "num_templates": 4,
                },
            ),
        }
    )

    erasure_target: LatentsFor = setting(
        "aet", "what the target is derived from: the adversarial erasure target, or the concept's own prompt"
    )
    target_tokens: int = setting(1, "free tokens of the erasure target", symbol="m'", source=_PAPER, ge=1)
    adversarial: bool = setting(
        True, "ask the model in training with an adversarial prompt; otherwise with the concept's own"
    )
    attack_tokens: int = setting(1, "free tokens of the adversarial prompt", symbol="m", source=_PAPER, ge=1)
    attack_placement: Placement = setting(Placement.PREFIX, "where free tokens stand")
    attack_steps: int = setting(1, "signed steps of both searches in an iteration", symbol="K", ge=1)
    attack_every: int = setting(1, "iterations between searches", ge=1)
    attack_learning_rate: float = setting(1e-3, "size of a signed step", symbol="β", gt=0)
    attack_init: Literal["latest", "random"] = setting(
        "latest", "begin a search at the last found tokens, or at random ones as the authors' command does"
    )
    attack_ball: float | None = setting(
        None, "largest distance of each coordinate from where its search began; none lets it go", gt=0
    )
    latents_for: LatentsFor | None = setting(
        None,
        "what the erasing step's latents are sampled for; aet unless given, concept where latents are kept",
    )
    retain_mode: Retained = setting(
        "projection", "how it is held: by projection, by a plain penalty, or not at all"
    )
    retain_from: RetainedFrom = setting(
        "weights",
        "what must stay, and its gradient: the original's weights (the paper's surrogate), or a retain set "
        "in their place (its ablation)",
    )
    retain_weight: float = setting(
        0.0, "weight of the pull to the original where there is no conflict, or of the penalty", ge=0
    )
    omega_rule: OmegaRule = setting(
        "paper", "how the projection's strength goes: paper, released, fixed at omega, or linear"
    )
    omega: float = setting(0.0, "where the strength begins; the value of fixed", symbol="ω", ge=0)
    omega_step: float = setting(0.1, "step of the strength", symbol="μ", source=_PAPER, ge=0)
    omega_max: float = setting(1.0, "largest strength", source=_PAPER, gt=0)
    memory: Memory = setting("sign", "what is kept of the last projection: a sign for each tensor, or all")
    projection_scope: Scope = setting("tensor", "project each tensor, or all of them as one")
    projection_ema: float = setting(0.0, "share of earlier projections in the one subtracted", ge=0, lt=1)
    frozen_dtype: StoredType | None = setting(
        None, "precision of the original's passes; as it is loaded unless given. θ0 is held as it is loaded"
    )
    rectify: Literal["before", "after"] = setting(
        "before", "rectify the gradient before the optimizer's step, or the step itself"
    )

    @property
    def rectification(self) -> Rectification:
        """How gradients are rectified."""
        return Rectification(
            rule=self.omega_rule,
            omega=self.omega,
            step=self.omega_step,
            largest=self.omega_max,
            memory=self.memory,
            scope=self.projection_scope,
            ema=self.projection_ema,
            pull=self.retain_weight,
            steps=self.max_train_steps,
        )

    @property
    def depends_on_steps(self) -> bool:
        """Whether a step's result depends on how many there will be."""
        return super().depends_on_steps or (self.retain_mode == "projection" and self.omega_rule == "linear")

    @property
    def idle(self) -> Mapping[str, tuple[str, ...]]:
        """See `GradientTrainingConfig`."""
        search = ("placement", "steps", "every", "learning_rate", "init", "ball")
        strength = ("omega", "omega_step", "omega_max")
        unused = {"released": strength[1:], "fixed": strength[1:], "linear": strength[:2], "paper": ()}
        found: dict[str, tuple[str, ...]] = {f"omega_rule {self.omega_rule}": unused[self.omega_rule]}
        if self.retain_mode != "projection":
            projection = ("omega_rule", "memory", "projection_scope", "projection_ema", "rectify")
            found[f"retain_mode {self.retain_mode}"] = (*strength, *projection)
        if self.retain_mode == "none":
            found["without retention"] = ("retain_weight",)
        if not self.retains_prompts:
            found["retain_from weights"] = RETAIN_SET
        if self.erasure_target == "concept":
            found["erasure_target concept"] = ("target_tokens",)
        if not self.adversarial:
            found["without an adversarial prompt"] = ("attack_tokens",)
            if self.erasure_target == "concept":
                found["without anything to search for"] = tuple(f"attack_{name}" for name in search)
        return found

    @property
    def _nothing_held(self) -> str:
        """Why nothing is retained although it was asked for; "" if something is."""
        if self.retain_mode == "penalty" and not self.retain_weight:
            return "retain_mode penalty with retain_weight 0 retains nothing"
        if self.retain_mode == "projection" and self.omega_rule == "fixed" and not self.omega:
            return "omega_rule fixed with omega 0 rectifies nothing"
        return ""

    @property
    def retains_prompts(self) -> bool:
        """Whether a retain set stands for the weights."""
        return self.retain_from == "prompts"

    @property
    def stored_types(self) -> Mapping[str, str]:
        """The frozen UNet's precision, where a text encoder is trained."""
        frozen = self.frozen_dtype is not None and component_of(self.train_method) == "text_encoder"
        return {"unet": str(self.frozen_dtype)} if frozen else {}

    @property
    def sampled_for(self) -> LatentsFor:
        """What the latents of the erasing step are sampled for."""
        trains_unet = component_of(self.train_method) == "unet"
        kept = self.source_of_latents(trains_unet=trains_unet) in ("trajectory", "pool")
        return self.latents_for or ("concept" if kept else "aet")

    @model_validator(mode="after")
    def _fits(self) -> AEGISConfig:
        trains_unet = component_of(self.train_method) == "unet"
        source = self.source_of_latents(trains_unet=trains_unet)
        if source in ("trajectory", "pool") and self.latents_for == "aet":
            raise ConfigError(
                f"latents_for aet with latents_from {source} cannot be done: the erasure target changes at "
                "every iteration, so latents for it cannot be kept; expected latents_for concept, or "
                "latents_from student or frozen; leave latents_for out"
            )
        if self.latents_for == "aet" and self.erasure_target == "concept":
            raise ConfigError(
                "latents_for aet with erasure_target concept cannot be done: there is no erasure target "
                "then; expected latents_for concept; leave latents_for out"
            )
        if self.retains_prompts and self.retain_mode == "none":
            raise ConfigError(
                "retain_from prompts with retain_mode none cannot be done: a retain set would be read and "
                "not used; expected retain_mode projection or penalty; leave one of them out"
            )
        if self._nothing_held:
            raise ConfigError(
                f"{self._nothing_held}; expected settings that do something; change one of them"
            )
        if self.retains_prompts and self.mixed_precision == "fp16":
            raise ConfigError(
                "retain_from prompts with mixed_precision fp16 cannot be done: the retain set's gradient has "
                "no loss scale and would be lost; expected no or bf16; change mixed_precision"
            )
        return self
