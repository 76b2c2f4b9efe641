"""What AdvUnlearn minimises at one step: see `advunlearn` for the method, `adversary` for the lower level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from diffusers_erasure.diffusion import BankDraw, DiffusionComponents, NoisePredictor, TextPath, evaluating
from diffusers_erasure.diffusion.noise import evaluations_of
from diffusers_erasure.prompts import World

from .adversary import Adversary, AskedPrompt
from .advunlearn_settings import AdvUnlearnConfig
from .agreement import fingerprints
from .concept_prompts import ScopedPrompt
from .draws import StepDraws
from .latents import BankReport, LatentsFrom, TeacherLatents, told_of, unconditional_of
from .losses import TOTAL, esd_target, noise_loss, weighted_losses
from .retention import Retention
from .student import Student, frozen_unet, stored_as
from .task_state import joined_state, part_of


class AdvUnlearnTask:
    """A `TrainingTask`: AdvUnlearn for a text encoder, or for a UNet.

    Attributes:
        erasing: Latents of the concept's wordings.
        retention: Latents of the retain set; None without one.
        adversary: Finds what the student is asked with.
        pupil: The UNet that the student is asked through.

    Args:
        components: The frozen base model. With `frozen_dtype` and a text encoder in training, one copy of its
            UNet serves teacher and pupil, and the UNet itself is held no longer.
        student: What is trained.
        prompts: Wordings of the concepts, drawn uniformly, each with what it is erased from.
        settings: Of AdvUnlearn.
        world: Whose prompts the retain set holds.
        progress: Told how far pools of trajectories are.
    """

    def __init__(
        self,
        components: DiffusionComponents,
        student: Student,
        prompts: Sequence[ScopedPrompt],
        settings: AdvUnlearnConfig,
        *,
        world: World,
        progress: BankReport | None = None,
    ) -> None:
        self.trains_unet = student.component == "unet"
        if settings.frozen_dtype is not None:
            frozen = stored_as(components.unet, getattr(torch, settings.frozen_dtype))
            components = replace(components, unet=frozen)
        self.components, self.student, self.settings = components, student, settings
        self.prompts = tuple(one.prompt for one in prompts)
        self.scopes = tuple(settings.scope or one.scope for one in prompts)
        self.teacher = NoisePredictor.of(components)
        self.pupil = NoisePredictor.of(components, unet=self._unet())
        self.base_text = TextPath(components)
        encoder = None if self.trains_unet else student.module
        self.text = TextPath(components, encoder=encoder)
        with evaluating(components.text_encoder):
            self.scope = self.base_text.encode(self.scopes) if any(self.scopes) else None
        source = settings.source_of_latents(trains_unet=self.trains_unet)
        sampler = self.pupil if source == "student" else None
        self.retention = self._retention(source, sampler, world, progress)  # first: it may be refused
        self.erasing = TeacherLatents.build(
            components,
            self.prompts,
            settings.latent_bank(source, settings.pool_trajectories),
            sampler=sampler,
            progress=told_of(progress, "concept latents"),
        )
        self.adversary = Adversary(self.text, self.pupil, self.erasing.bank, self.prompts, settings)

    def _unet(self) -> Any:
        if self.trains_unet:
            return self.student.module
        return frozen_unet(self.components.unet, gradient_checkpointing=self.settings.gradient_checkpointing)

    def _retention(
        self,
        source: LatentsFrom,
        sampler: NoisePredictor | None,
        world: World,
        progress: BankReport | None,
    ) -> Retention | None:
        settings = self.settings
        if settings.retain_mode == "none":
            return None
        return Retention.build(
            self.components,
            settings,
            settings.latent_bank(
                source,
                settings.retain_trajectories,
                unconditional=False,
                pairs=settings.retain_pairs,
            ),
            world=world,
            sampler=sampler,
            progress=told_of(progress, "retain latents"),
        )

    def parameters(self) -> Mapping[str, nn.Parameter]:
        """The student's trained weights."""
        return self.student.parameters

    def losses(self, draws: StepDraws) -> Mapping[str, Tensor]:
        """The upper level's loss, with its terms.

        `erase` is ESD's loss with the student asked by the adversarial prompt, `retain` the distance to the
        original on the retain set, `attack` what the adversary reached.
        """
        iteration, turn = divmod(draws.step, self.settings.cycle)
        if turn:
            return self._retain_only(draws)
        asked = self.adversary.ask(draws, iteration)
        found = self.erasing.draw(draws, [asked.number] * draws.batch)
        retained = self._retained(draws) if self.settings.retain_mode == "reg" else None
        erased, kept = self._predict(asked, found, retained)
        terms = {"erase": noise_loss(erased, self._target(found, asked.number))}
        if retained is not None:
            terms["retain"] = noise_loss(kept, retained.target_conditional)
        weights = {"retain": self.settings.retain_weight} if retained is not None else {}
        told = {} if asked.loss is None else {"attack": asked.loss.to(erased.device)}
        return {**weighted_losses(terms, weights), **told}

    def _retain_only(self, draws: StepDraws) -> Mapping[str, Tensor]:
        """A retain step of its own, in mode iter."""
        retained = self._retained(draws)
        predicted = self.pupil(retained.latents, retained.timesteps, self._states(None, retained))
        loss = noise_loss(predicted, retained.target_conditional)
        return {TOTAL: loss, "retain": loss.detach()}

    def _retained(self, draws: StepDraws) -> BankDraw:
        if self.retention is None:
            raise RuntimeError("retain latents are asked for, but the run has no retain set")
        return self.retention.draw(draws)

    def _predict(
        self, asked: AskedPrompt, found: BankDraw, retained: BankDraw | None
    ) -> tuple[Tensor, Tensor]:
        """What the student says for the concept's latents and for the retained ones, in one UNet call."""
        rows = found.latents.shape[0]
        latents, timesteps = found.latents, found.timesteps
        if retained is not None:
            latents = torch.cat([latents, retained.latents])
            timesteps = torch.cat([timesteps, retained.timesteps])
        states = self._states(asked, retained)
        concept, others = states[:1], states[1:]
        predicted = self.pupil(latents, timesteps, torch.cat([concept.expand(rows, -1, -1), others]))
        return predicted[:rows], predicted[rows:]

    def _states(self, asked: AskedPrompt | None, retained: BankDraw | None) -> Tensor:
        """Text states that the student is asked with: the concept's first, then the retained prompts'."""
        ids, embeddings = [], []
        if asked is not None:
            ids.append(asked.ids)
            embeddings.append(asked.embeddings)
        if retained is not None and self.retention is not None:
            rows = self.retention.ids[retained.prompt_index]
            ids.append(rows)
            embeddings.append(self.text.token_embeddings(rows))
        with torch.set_grad_enabled(not self.trains_unet):
            return self.text.states(torch.cat(ids), torch.cat(embeddings))

    @torch.no_grad()
    def _target(self, found: BankDraw, number: int) -> Tensor:
        """ESD's target, always for the plain concept."""
        scope = None
        if self.scope is not None:
            scope = self.teacher(found.latents, found.timesteps, self.scope[number])
        return esd_target(
            found.target_conditional,
            unconditional_of(found),
            self.settings.negative_guidance,
            scope=scope,
        )

    @property
    def evaluations(self) -> int:
        """UNet evaluations so far, one for each sample of a batch: latents, attacks, training."""
        sources = [self.erasing.bank.source]
        if self.retention is not None:
            sources.append(self.retention.bank.source)
        samplers = [one.sampler for one in sources if one.sampler is not None]
        predictors = [self.pupil, self.teacher, *(one.predictor for one in sources), *samplers]
        return evaluations_of(predictors)

    def identity(self) -> Mapping[str, Any]:
        """Fingerprints of everything that the run reads."""
        return {
            **fingerprints(self.components),
            "prompts": list(self.prompts),
            "scopes": list(self.scopes),
            "retained": [] if self.retention is None else list(self.retention.prompts),
        }

    def state(self) -> Mapping[str, Tensor]:
        """The adversary's, and trajectories that are not used up."""
        parts = {"adversary": self.adversary.state(), "erasing": self.erasing.bank.state()}
        if self.retention is not None:
            parts["retention"] = self.retention.bank.state()
        return joined_state(parts)

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take up what `state` gave."""
        self.adversary.load_state(part_of(state, "adversary"))
        self.erasing.bank.load_state(part_of(state, "erasing"))
        if self.retention is not None:
            self.retention.bank.load_state(part_of(state, "retention"))
