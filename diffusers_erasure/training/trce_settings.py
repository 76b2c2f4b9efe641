"""Settings of TRCE, and its presets: see `trce` for the method and where the presets come from."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal, get_args

from pydantic import model_validator

from diffusers_erasure.diffusion.parameters import component_of
from diffusers_erasure.embedded import EMBEDDED_MODEL_ID
from diffusers_erasure.errors import ConfigError
from diffusers_erasure.settings import setting

from .closed_form import Penalties, PriorStatistics
from .settings import GradientTrainingConfig, Preset
from .text_edit import EditForm
from .token_positions import KeywordTarget, SlotWeights

Stages = Literal["1", "2", "1+2"]
Deviation = Literal["word_positions", "released_prior", "summed_gradients", "shifted_latents"]
_PAPER = "arXiv:2503.07389"
_CAPTIONS = 3e4
"""Captions by which the authors' code divides its prior."""
_TRAINING: Mapping[str, Any] = MappingProxyType(
    {"max_train_steps": 300, "learning_rate": 1e-6, "optimizer": "adamw", "adam_weight_decay": 0.01}
)


class TRCEConfig(GradientTrainingConfig):
    """Settings of TRCE."""

    presets: ClassVar[Mapping[str, Preset]] = MappingProxyType(
        {
            "paper": Preset(f"{_PAPER}, its settings for one theme (sexual)", dict(_TRAINING)),
            "themes": Preset(
                "its settings for several themes at once (unsafe)",
                {**_TRAINING, "preserve_scale": 0.031, "max_train_steps": 900},
            ),
            EMBEDDED_MODEL_ID: Preset(
                "for the 64-pixel model of this package",
                {
                    **_TRAINING,
                    "learning_rate": 3e-4,
                    "preserve_scale": 0.1,
                    "num_templates": None,
                    "steering_guidance": 4.0,
                    "num_inference_steps": 20,
                    "early_steps": 10,
                    "trajectories_per_prompt": 2,
                },
            ),
            "reference": Preset(
                "the authors' code with its faults",
                {
                    **_TRAINING,
                    "preserve_scale": 0.01,
                    "ridge": 0.0,
                    "deviations": get_args(Deviation),
                },
            ),
        }
    )

    stages: Stages = setting(
        "1+2", "what to do: 1, the closed-form edit; 2, the steering of early steps; or both"
    )

    sot_weight: float = setting(0.0, "stage 1: weight of the start token", symbol="[SoT]", ge=0)
    eot_weight: float = setting(
        1.0, "stage 1: weight of the first end token, which has read all", symbol="[EoT]", source=_PAPER, ge=0
    )
    padding_weight: float = setting(0.0, "stage 1: weight of each end token that pads the prompt", ge=0)
    keyword_weight: float = setting(0.0, "stage 1: weight of each token of the concept", symbol="[KEY]", ge=0)
    keyword_target: KeywordTarget = setting(
        "last-eot",
        "stage 1: what the concept's tokens become: the safe prompt's last [EoT], or the anchor",
    )
    use_synonyms: bool = setting(True, "erase the concept's known synonyms too")
    use_tags: bool = setting(
        False, "erase words that imply the concept too; only the embedded vocabulary knows such"
    )
    num_templates: int | None = setting(
        15,
        "stage 1: most wordings per word; 0 takes the bare word alone, None takes all",
        source=_PAPER,
        ge=0,
    )
    pairs_file: str = setting(
        "", "csv file of further pairs with the columns malicious and safe, maybe word and safe_word"
    )
    expander: str = setting(
        "",
        "function package.module:function that gives further words for the concepts",
    )
    retain_set: str = setting(
        "scenes", "stage 1: what stays: objects, classes, scenes, styles, or a file of your own (txt, csv)"
    )
    retain_exclude: tuple[str, ...] = setting((), "word that no retain prompt may say")
    max_retain_prompts: int | None = setting(None, "most retain prompts; None takes the whole set", ge=1)
    prior_file: str = setting(
        "", "file for the retain set's statistics, which every concept of one base can use", recorded=False
    )
    preserve_scale: float = setting(
        0.0077,
        "stage 1: weight of what stays against what is mapped, both as means",
        symbol="η",
        source="the authors' code at 30,000 captions",
        ge=0,
    )
    ridge: float = setting(
        1e-6, "stage 1: pull towards the old weights, as a share of the mean diagonal", symbol="λ", ge=0
    )
    edit_form: EditForm = setting(
        "right_factor", "stage 1 alone: store one matrix for all layers, or a patch of each layer"
    )
    save_statistics: bool = setting(
        True,
        "stage 1 alone: put what compose needs beside the artifact, two matrices of width x width in "
        "float64, 9.4 MB at SD 1.x's width",
        recorded=False,
    )
    encoder_batch_size: int = setting(64, "prompts that are encoded at once", recorded=False, ge=1)

    train_method: str = setting(
        "visual", "stage 2: which weights are trained; visual is self-attention and the queries of the other"
    )
    steering_guidance: float = setting(
        16.0,
        "stage 2: how far the directions to and away from are amplified",
        symbol="β",
        source="15 in the authors' code, which counts from e_c",
        gt=0,
    )
    steering_margin: float = setting(
        0.01, "stage 2: by how much the safe direction has to be nearer", symbol="δ", source=_PAPER, ge=0
    )
    regularization_weight: float = setting(
        100.0,
        "stage 2: weight of staying as stage 1 left it without a prompt",
        symbol="λ",
        source=_PAPER,
        ge=0,
    )
    regularization_batch_size: int = setting(
        4, "stage 2: rows of that beside each sample", source=_PAPER, ge=1
    )
    num_inference_steps: int = setting(50, "stage 2: sampling steps of a whole run", source=_PAPER, ge=1)
    early_steps: int = setting(26, "stage 2: how many of the first steps are steered", source=_PAPER, ge=1)
    guidance_scale: float = setting(
        3.0, "stage 2: classifier-free guidance while latents are sampled", source=_PAPER, ge=0
    )
    steering_templates: int | None = setting(
        1, "stage 2: most wordings per word; 0 takes the bare word alone, None takes all", source=_PAPER, ge=0
    )
    latents_from: Literal["pool", "trajectory"] = setting(
        "pool", "stage 2: a pool of trajectories, or trajectories each of which serves every step once"
    )
    trajectories_per_prompt: int = setting(
        5, "stage 2: trajectories of each prompt in a pool", source=_PAPER, ge=1
    )
    regularization_trajectories: int = setting(
        24, "stage 2: trajectories without a prompt in a pool; each serves all its steps", ge=1
    )
    latents_dtype: Literal["float32", "float16", "bfloat16"] = setting(
        "float16", "stage 2: precision in which a pool is kept"
    )
    deviations: tuple[Deviation, ...] = setting(
        (), "what to do as the authors' code does it otherwise than the paper"
    )

    @property
    def slots(self) -> SlotWeights:
        """What of a prompt is mapped."""
        return SlotWeights(
            self.sot_weight,
            self.eot_weight,
            self.padding_weight,
            self.keyword_weight,
            self.keyword_target,
            by_words="word_positions" in self.deviations,
        )

    def penalties(self, prior: PriorStatistics) -> Penalties:
        """Weights of the closed form; the authors' code divides plain sums by a number of captions."""
        scale = self.preserve_scale
        if "released_prior" in self.deviations:
            scale = scale**2 / _CAPTIONS * prior.count
        return Penalties(scale, self.ridge, mean=True)

    @model_validator(mode="after")
    def _fits(self) -> TRCEConfig:
        if "1" in self.stages and not any(
            (self.sot_weight, self.eot_weight, self.padding_weight, self.keyword_weight)
        ):
            raise ConfigError(
                "sot_weight, eot_weight, padding_weight and keyword_weight are all 0; stage 1 has nothing to "
                "map; expected one above 0; give eot_weight 1, or take stages 2"
            )
        if "2" in self.stages and self.early_steps > self.num_inference_steps:
            raise ConfigError(
                f"early_steps is {self.early_steps}, but a run has num_inference_steps "
                f"{self.num_inference_steps}; expected at most as many; lower early_steps"
            )
        if "2" in self.stages and component_of(self.train_method) != "unet":
            raise ConfigError(
                f"train_method {self.train_method} is a group of the text encoder; stage 2 steers the UNet: "
                "expected a group of its weights, such as visual; give one, or take stages 1"
            )
        if "summed_gradients" in self.deviations and self.gradient_accumulation_steps > 1:
            raise ConfigError(
                f"gradients that are never cleared cannot be accumulated over "
                f"{self.gradient_accumulation_steps} passes; expected gradient_accumulation_steps 1; raise "
                "train_batch_size instead"
            )
        return self
