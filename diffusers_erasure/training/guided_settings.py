"""Settings of every method that erases by the negated guidance of the frozen original, ESD's target.

ESD (arXiv:2303.07345) has nothing but these; AdvUnlearn and others put an adversary and a retention beside
them.
"""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import model_validator

from diffusers_erasure.diffusion import Alignment
from diffusers_erasure.diffusion.bank_settings import BankSettings
from diffusers_erasure.errors import ConfigError
from diffusers_erasure.settings import setting

from .latents import BANK_MODES, LatentsFrom
from .settings import GradientTrainingConfig


class GuidedErasureConfig(GradientTrainingConfig):
    """What is trained, on which latents, away from what."""

    maps_to_anchor: ClassVar[bool] = False

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
    guidance_scale: float = setting(3.0, "classifier-free guidance while latents are sampled", ge=0)
    num_inference_steps: int = setting(50, "sampling steps of a whole run", ge=1)
    alignment: Alignment = setting(
        "aligned", "ask the UNet at the latent's own timestep, or as the authors' first code did (compvis)"
    )
    latents_from: LatentsFrom | None = setting(
        None,
        "who samples latents: student, frozen, trajectory (each of the frozen model's serves every step "
        "once) or a pool of them; student for the UNet and pool for the text encoder unless given",
    )
    pool_trajectories: int = setting(32, "trajectories of each prompt in a pool", ge=1)
    use_synonyms: bool = setting(False, "erase the concept's known synonyms too")
    num_templates: int | None = setting(
        0, "most wordings per word; 0 takes the bare word alone, None takes all", ge=0
    )

    @model_validator(mode="after")
    def _erases_from_scope(self) -> Self:
        if self.anchor:
            raise ConfigError(
                f"anchor {', '.join(map(repr, self.anchor))} cannot be used: this method maps a concept to "
                "nothing, it pushes away from it; expected no anchor; leave it out, or say in scope what the "
                "concept is to be erased from"
            )
        return self

    def latent_bank(
        self, source: LatentsFrom, trajectories: int, *, unconditional: bool = True, pairs: int | None = None
    ) -> BankSettings:
        """How the latents of prompts are made and kept.

        Args:
            source: Who samples them.
            trajectories: Of each prompt, in a pool.
            unconditional: Whether predictions for the empty prompt are kept too.
            pairs: Latents kept of each trajectory of a pool; None keeps all.
        """
        pool = source == "pool"
        return BankSettings(
            mode=BANK_MODES[source],
            steps=self.num_inference_steps,
            guidance_scale=self.guidance_scale,
            alignment=self.alignment,
            trajectories_per_prompt=trajectories if pool else 1,
            pairs_per_trajectory=pairs if pool else None,
            unconditional=unconditional,
            seed=self.seed,
        )

    def source_of_latents(self, *, trains_unet: bool) -> LatentsFrom:
        """Who samples latents.

        Args:
            trains_unet: Whether the UNet is trained, or the text encoder.

        Raises:
            ConfigError: The student would sample, but it is a text encoder.
        """
        chosen = self.latents_from or ("student" if trains_unet else "pool")
        if chosen == "student" and not trains_unet:
            raise ConfigError(
                f"latents_from student with {self.train_method} cannot be done: a text encoder in training "
                "samples no latents; expected frozen, trajectory or pool; leave latents_from out for a pool"
            )
        return chosen
