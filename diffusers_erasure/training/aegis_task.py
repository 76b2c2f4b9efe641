"""What AEGIS minimises at one step, and how the step is made: see `aegis` for the method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from diffusers_erasure.diffusion import (
    DiffusionComponents,
    NoisePredictor,
    TextPath,
    evaluating,
    latent_shape,
    partial_sample,
)
from diffusers_erasure.diffusion.noise import evaluations_of
from diffusers_erasure.prompts import World

from .aegis_settings import AEGISConfig
from .aegis_step import AEGISStep
from .agreement import fingerprints
from .concept_prompts import ScopedPrompt
from .draws import StepDraws
from .latents import BANK_MODES, BankReport, LatentsFrom, TeacherLatents, told_of, unconditional_of
from .losses import TOTAL, esd_target, noise_loss
from .retain_gradient import RetainGradient
from .retention import Retention
from .soft_pair import ConceptLatents, FreeTokens, SoftPair
from .student import Student, frozen_unet, stored_as
from .task_state import joined_state, part_of
from .text_memo import remembered_text


class AEGISTask:
    """A `TrainingTask` that steps itself: AEGIS for a UNet, or, as our extension, for a text encoder.

    Attributes:
        pair: Erasure target and adversarial prompt.
        step: How the optimizer's step is made, with the rectifier.
        kept: Latents of the frozen original, where they are kept; None where every one is sampled.

    Args:
        components: The frozen base model. With `frozen_dtype`, passes of the original go through a copy of
            its UNet in that precision; θ0 stays as it was loaded.
        student: What is trained.
        prompts: Wordings of the concepts, drawn uniformly, each with what it is erased from.
        settings: Of AEGIS.
        world: Whose prompts a retain set holds.
        progress: Told how far a pool of trajectories is.
    """

    def __init__(
        self,
        components: DiffusionComponents,
        student: Student,
        prompts: Sequence[ScopedPrompt],
        settings: AEGISConfig,
        *,
        world: World = "general",
        progress: BankReport | None = None,
    ) -> None:
        if settings.frozen_dtype is not None:
            frozen = stored_as(components.unet, getattr(torch, settings.frozen_dtype))
            components = replace(components, unet=frozen)
        self.components, self.student, self.settings = components, student, settings
        self.trains_unet = student.component == "unet"
        self.prompts = tuple(one.prompt for one in prompts)
        self.scopes = tuple(settings.scope or one.scope for one in prompts)
        self.teacher = NoisePredictor.of(components, unet=frozen_unet(components.unet))
        self.pupil = NoisePredictor.of(components, unet=self._unet())
        self.base_text = TextPath(components)
        self.text = TextPath(components, encoder=None if self.trains_unet else student.module)
        with evaluating(components.text_encoder):
            self.concepts = self.base_text.encode(self.prompts)
            self.scope = self.base_text.encode(self.scopes) if any(self.scopes) else None
            self.empty = self.base_text.encode("")
        self.pair = SoftPair(
            self.teacher,
            self.pupil,
            FreeTokens.of(self.base_text, self.prompts, settings.target_tokens, settings),
            FreeTokens.of(self.text, self.prompts, settings.attack_tokens, settings),
            settings,
            _groups([one.concept for one in prompts]),
        )
        source = settings.source_of_latents(trains_unet=self.trains_unet)
        self.sampler = self.pupil if source == "student" else self.teacher
        self.retained = self._retain(source, world, progress) if settings.retains_prompts else None
        self.kept = None if BANK_MODES[source] == "fresh" else self._keep(source, progress)
        self.step = AEGISStep(student, settings, self.retained)
        self._searched: tuple[int, Mapping[str, Tensor]] | None = None

    def _unet(self) -> Any:
        if self.trains_unet:
            return self.student.module
        return frozen_unet(self.components.unet, gradient_checkpointing=self.settings.gradient_checkpointing)

    def _keep(self, source: LatentsFrom, progress: BankReport | None) -> TeacherLatents:
        chosen = self.settings.latent_bank(source, self.settings.pool_trajectories)
        told = told_of(progress, "concept latents")
        return TeacherLatents.build(self.components, self.prompts, chosen, progress=told)

    def _retain(self, source: LatentsFrom, world: World, progress: BankReport | None) -> RetainGradient:
        settings = self.settings
        bank = settings.latent_bank(
            source, settings.retain_trajectories, unconditional=False, pairs=settings.retain_pairs
        )
        retention = Retention.build(
            self.components,
            settings,
            bank,
            world=world,
            sampler=self.pupil if source == "student" else None,
            progress=told_of(progress, "retain latents"),
        )
        text = None if self.trains_unet else self.text
        passes = settings.gradient_accumulation_steps
        return RetainGradient(retention, self.pupil, text, self.student.parameters, passes=passes)

    def parameters(self) -> Mapping[str, nn.Parameter]:
        """The student's trained weights."""
        return self.student.parameters

    def losses(self, draws: StepDraws) -> Mapping[str, Tensor]:
        """The erasure's loss, with what else is told.

        "aet" and "attack" are the objectives of both searches, where one was due; "retain" is that of the
        retain set.
        """
        told = dict(self._searches(draws))
        if self.retained is not None:
            told["retain"] = self.retained.collect(draws)
        number = self.pair.number
        target_states = self._target_states(number)
        latents, timesteps, target = self._target(draws, number, target_states)
        asked = self._asked_states(number)
        predicted = self.pupil(latents, timesteps, asked.expand(len(latents), -1, -1))
        return {TOTAL: noise_loss(predicted, target), **told}

    def _searches(self, draws: StepDraws) -> Mapping[str, Tensor]:
        """Search where it is due, once for all passes of a step."""
        if self._searched is None or self._searched[0] != draws.step:
            told: Mapping[str, Tensor] = {}
            if draws.step % self.settings.attack_every == 0 or self.pair.target_delta is None:
                number = int(torch.randint(len(self.prompts), (), generator=draws.shared))
                told = self._search(number, draws.shared)
            self._searched = (draws.step, told)
        return self._searched[1]

    def _search(self, number: int, generator: torch.Generator) -> dict[str, Tensor]:
        def latents() -> ConceptLatents:
            if self.kept is not None:
                drawn = self.kept.bank.draw(generator, 1, prompts=[number])
                return ConceptLatents(drawn.latents, drawn.timesteps, drawn.target_conditional)
            concept = self.concepts[number : number + 1]
            z, t = self._sample(concept, [generator])
            with torch.no_grad():
                return ConceptLatents(z, t, self.teacher(z, t, concept))

        return self.pair.search(number, generator, latents, lambda: self._plain_states(number))

    @torch.no_grad()
    def _sample(self, states: Tensor, generators: Sequence[torch.Generator]) -> tuple[Tensor, Tensor]:
        """Latents at a random step of sampling for these states, one for each generator."""
        settings = self.settings
        steps = settings.num_inference_steps
        indices = [int(torch.randint(steps, (), generator=generator)) for generator in generators]
        shape = latent_shape(self.components.unet)
        noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
        device = self.sampler.unet.device
        with remembered_text(self.sampler.unet):
            return partial_sample(
                self.sampler,
                states.to(device),
                self.empty.to(device),
                noise=noise.to(device),
                step_index=indices,
                steps=steps,
                guidance_scale=settings.guidance_scale,
                alignment=settings.alignment,
                generators=generators,
            )

    def _target_states(self, number: int) -> Tensor:
        """States that the target is derived from, seen through the original, `(1, tokens, width)`."""
        delta = self.pair.target_delta
        if self.settings.erasure_target == "concept" or delta is None:
            return self.concepts[number : number + 1]
        with torch.no_grad():
            return self.pair.target.states(number, delta)

    def _asked_states(self, number: int) -> Tensor:
        """States that the trained model is asked with; they carry gradients where an encoder is trained."""
        delta = self.pair.attack_delta
        if not self.settings.adversarial or delta is None:
            return self._plain_states(number)
        with torch.set_grad_enabled(not self.trains_unet):
            return self.pair.attack.states(number, delta)

    def _plain_states(self, number: int) -> Tensor:
        if self.trains_unet:
            return self.concepts[number : number + 1]
        return self.text.encode(self.prompts[number])

    @torch.no_grad()
    def _target(self, draws: StepDraws, number: int, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Latents, their timesteps, and what the trained model is to say there."""
        rows, scope = draws.batch, None
        if self.kept is not None:
            found = self.kept.draw(draws, [number] * rows)
            z, t, empty = found.latents, found.timesteps, unconditional_of(found)
            away = found.target_conditional
            if self.settings.erasure_target == "aet":
                away = self.teacher(z, t, states)
        else:
            wanted = states if self.settings.sampled_for == "aet" else self.concepts[number : number + 1]
            z, t = self._sample(wanted, draws.samples)
            away, empty = self.teacher.both(z, t, states, self.empty)
        if self.scope is not None:
            scope = self.teacher(z, t, self.scope[number])
        return z, t, esd_target(away, empty, self.settings.negative_guidance, scope=scope)

    def around_step(self, step: Callable[[], object]) -> Mapping[str, float]:
        """Rectify the gradient, or the step itself, against what must stay."""
        return self.step.make(step)

    @property
    def evaluations(self) -> int:
        """UNet evaluations so far, one for each sample of a batch: latents, searches, training."""
        sources = [] if self.kept is None else [self.kept.bank.source]
        if self.retained is not None:
            sources.append(self.retained.retention.bank.source)
        return evaluations_of([self.teacher, self.pupil, *(one.predictor for one in sources)])

    def identity(self) -> Mapping[str, Any]:
        """Fingerprints of everything that the run reads."""
        return {
            **fingerprints(self.components),
            "prompts": list(self.prompts),
            "scopes": list(self.scopes),
            "retained": [] if self.retained is None else list(self.retained.retention.prompts),
        }

    def state(self) -> Mapping[str, Tensor]:
        """Both finds, ω and what it goes by, and trajectories that are not used up."""
        parts = {"pair": self.pair.state(), "rectifier": self.step.rectifier.state()}
        if self.kept is not None:
            parts["kept"] = self.kept.bank.state()
        if self.retained is not None:
            parts["retention"] = self.retained.retention.bank.state()
        return joined_state(parts)

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take up what `state` gave."""
        self.pair.load_state(part_of(state, "pair"))
        device = next(iter(self.student.parameters.values())).device
        self.step.rectifier.load_state(part_of(state, "rectifier"), device=device)
        if self.kept is not None:
            self.kept.bank.load_state(part_of(state, "kept"))
        if self.retained is not None:
            self.retained.retention.bank.load_state(part_of(state, "retention"))


def _groups(concepts: Sequence[str]) -> list[int]:
    """Of every wording, the number of its concept."""
    numbers = {name: number for number, name in enumerate(dict.fromkeys(concepts))}
    return [numbers[name] for name in concepts]
