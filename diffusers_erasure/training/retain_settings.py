"""Settings of every method that may keep a retain set: which prompts stay, and how their latents are made."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from diffusers_erasure.diffusion import component_of
from diffusers_erasure.errors import ConfigError
from diffusers_erasure.settings import setting

from .guided_settings import GuidedErasureConfig

_PAPER = "arXiv:2405.15234"
RETAIN_SET = (
    "retain_batch_size",
    "retain_set",
    "retain_exclude",
    "retain_rule",
    "max_retain_prompts",
    "retain_empty",
    "retain_trajectories",
    "retain_pairs",
)
"""Settings that say what the retain set is, and nothing else."""


class RetainSetConfig(GuidedErasureConfig):
    """The retain set of AdvUnlearn (arXiv:2405.15234), for whoever retains by prompts."""

    retain_batch_size: int = setting(5, "retain prompts beside each concept sample", source=_PAPER, ge=1)
    retain_set: str = setting(
        "objects",
        "retain prompts: objects, classes, scenes, styles, or a file of your own (txt, or csv: prompt)",
    )
    retain_exclude: tuple[str, ...] = setting((), "word that no retain prompt may say")
    retain_rule: str = setting(
        "", "what else leaves prompts out: a function package.module:function; empty is the built-in rule"
    )
    max_retain_prompts: int | None = setting(
        243, "most retain prompts; None takes the whole set", source=_PAPER, ge=1
    )
    retain_empty: bool = setting(False, "retain the empty prompt too, which guidance draws with")
    retain_trajectories: int = setting(1, "trajectories of each retain prompt in a pool", ge=1)
    retain_pairs: int = setting(10, "latents kept of each of them", ge=1)
    retain_bank: str = setting(
        "", "folder for the retain set's pool, which every concept of one base model can use", recorded=False
    )

    @model_validator(mode="after")
    def _bank_is_a_pool(self) -> Self:
        """A folder holds a pool; latents that are sampled anew in every step are kept nowhere."""
        source = self.source_of_latents(trains_unet=component_of(self.train_method) == "unet")
        if self.retain_bank and source != "pool":
            raise ConfigError(
                f"retain_bank {self.retain_bank!r} was given, and with train_method {self.train_method} "
                f"latents come from {source}; expected no folder, since only a pool is kept in one; leave "
                "retain_bank out, or set latents_from pool"
            )
        return self
