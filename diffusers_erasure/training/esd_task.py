"""What ESD minimises at one step: see `esd` for the method, `losses.esd_target` for the formula."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from diffusers_erasure.diffusion import DiffusionComponents, NoisePredictor, TextPath, evaluating
from diffusers_erasure.diffusion.bank import BankDraw, BankProgress

from .agreement import fingerprints
from .concept_prompts import ScopedPrompt
from .draws import StepDraws
from .esd_settings import ESDConfig
from .latents import LatentsFrom, TeacherLatents, unconditional_of
from .losses import TOTAL, esd_target, noise_loss
from .student import Student, frozen_unet


class ESDTask:
    """A `TrainingTask`: ESD for a UNet or for a text encoder.

    With a scope, the code's rule samples latents for the scope and asks the student for it; the paper's rule
    does both for the concept.

    Args:
        components: The frozen base model.
        student: What is trained.
        prompts: Wordings of the concepts, drawn uniformly, each with what it is erased from.
        settings: Of ESD.
        progress: Told how far a pool of trajectories is.
    """

    def __init__(
        self,
        components: DiffusionComponents,
        student: Student,
        prompts: Sequence[ScopedPrompt],
        settings: ESDConfig,
        *,
        progress: BankProgress | None = None,
    ) -> None:
        self.components, self.student, self.settings = components, student, settings
        self.prompts = tuple(one.prompt for one in prompts)
        self.scopes = tuple(settings.scope or one.scope for one in prompts)
        self.text = TextPath(components)
        self.teacher = NoisePredictor.of(components)
        trains_unet = student.component == "unet"
        unet = student.module if trains_unet else frozen_unet(components.unet)
        self.pupil = NoisePredictor.of(components, unet=unet)
        with evaluating(components.text_encoder):
            self.concepts = self.text.encode(self.prompts)
            self.scope = self.text.encode(self.scopes) if any(self.scopes) else None
        self.for_scope = bool(settings.scope) and settings.target_rule == "code"
        self.asked = (settings.scope,) if self.for_scope else self.prompts
        chosen = settings.source_of_latents(trains_unet=trains_unet)
        self.latents = self._latents(chosen, progress)

    def _latents(self, chosen: LatentsFrom, progress: BankProgress | None) -> TeacherLatents:
        return TeacherLatents.build(
            self.components,
            self.asked,
            self.settings.latent_bank(chosen, self.settings.pool_trajectories),
            sampler=self.pupil if chosen == "student" else None,
            progress=progress,
        )

    def parameters(self) -> Mapping[str, nn.Parameter]:
        """The student's trained weights."""
        return self.student.parameters

    def losses(self, draws: StepDraws) -> Mapping[str, Tensor]:
        """Squared distance to ESD's target; `moved` is that to what the original says of the concept."""
        chosen = draws.integers(len(self.prompts))
        rows = [0] * draws.batch if self.for_scope else list(chosen)
        found = self.latents.draw(draws, rows)
        concept, scope = self._predictions(found, chosen)
        target = esd_target(
            concept,
            unconditional_of(found),
            self.settings.negative_guidance,
            scope=scope,
            rule=self.settings.target_rule,
        )
        predicted = self.pupil(found.latents, found.timesteps, self._states(rows))
        return {TOTAL: noise_loss(predicted, target), "moved": noise_loss(predicted.detach(), concept)}

    @torch.no_grad()
    def _predictions(self, found: BankDraw, chosen: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """What the teacher says for the concept and, if there is one, for the scope."""
        if self.scope is None:
            return found.target_conditional, None
        if self.for_scope:
            concept = self.teacher(found.latents, found.timesteps, self.concepts[list(chosen)])
            return concept, found.target_conditional
        scopes = self.scope[list(chosen)]
        return found.target_conditional, self.teacher(found.latents, found.timesteps, scopes)

    def _states(self, rows: Sequence[int]) -> Tensor:
        """Text states that the student is asked with, `(batch, tokens, width)`."""
        if self.student.component == "text_encoder":
            path = TextPath(self.components, encoder=self.student.module)
            return path.states(path.ids([self.asked[row] for row in rows]))
        if self.for_scope and self.scope is not None:
            return self.scope[rows]
        return self.concepts[list(rows)]

    def identity(self) -> Mapping[str, Any]:
        """Fingerprints of everything that the run reads."""
        return {
            **fingerprints(self.components),
            "prompts": list(self.prompts),
            "scopes": list(self.scopes),
        }

    def state(self) -> Mapping[str, Tensor]:
        """Trajectories that are not used up; in all other modes a step follows from weights and draws."""
        return self.latents.bank.state()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on with the trajectories of a `state`."""
        self.latents.bank.load_state(state)
