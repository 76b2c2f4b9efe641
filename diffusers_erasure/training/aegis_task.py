"""What AEGIS minimises at one step, and how the step is made: see `aegis` for the method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
from diffusers_erasure.diffusion.bank_settings import BankSettings
from diffusers_erasure.diffusion.noise import evaluations_of

from .aegis_settings import AEGISConfig
from .agreement import fingerprints
from .concept_prompts import ScopedPrompt
from .draws import StepDraws
from .latents import BANK_MODES, BankReport, TeacherLatents, told_of, unconditional_of
from .losses import TOTAL, esd_target, noise_loss
from .rectification import Rectified, Rectifier
from .soft_pair import ConceptLatents, FreeTokens, SoftPair
from .student import Student, frozen_unet
from .task_state import joined_state, part_of


class AEGISTask:
    """A `TrainingTask` that steps itself: AEGIS for a UNet, or, as our extension, for a text encoder.

    Attributes:
        pair: Erasure target and adversarial prompt.
        rectifier: What gradients go through.
        kept: Latents of the frozen original, where they are kept; None where every one is sampled.

    Args:
        components: The frozen base model.
        student: What is trained.
        prompts: Wordings of the concepts, drawn uniformly, each with what it is erased from.
        settings: Of AEGIS.
        progress: Told how far a pool of trajectories is.
    """

    def __init__(
        self,
        components: DiffusionComponents,
        student: Student,
        prompts: Sequence[ScopedPrompt],
        settings: AEGISConfig,
        *,
        progress: BankReport | None = None,
    ) -> None:
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
        )
        self.rectifier = Rectifier(settings.rectification)
        source = settings.source_of_latents(trains_unet=self.trains_unet)
        self.sampler = self.pupil if source == "student" else self.teacher
        self.kept = None if BANK_MODES[source] == "fresh" else self._keep(BANK_MODES[source], progress)

    def _unet(self) -> Any:
        if self.trains_unet:
            return self.student.module
        return frozen_unet(self.components.unet, gradient_checkpointing=self.settings.gradient_checkpointing)

    def _keep(self, mode: Any, progress: BankReport | None) -> TeacherLatents:
        settings = self.settings
        chosen = BankSettings(
            mode=mode,
            steps=settings.num_inference_steps,
            guidance_scale=settings.guidance_scale,
            alignment=settings.alignment,
            trajectories_per_prompt=settings.pool_trajectories if mode == "pool" else 1,
            seed=settings.seed,
        )
        told = told_of(progress, "concept latents")
        return TeacherLatents.build(self.components, self.prompts, chosen, progress=told)

    def parameters(self) -> Mapping[str, nn.Parameter]:
        """The student's trained weights."""
        return self.student.parameters

    def losses(self, draws: StepDraws) -> Mapping[str, Tensor]:
        """The erasure's loss; "aet" and "attack" are the objectives of both searches, where one was due."""
        told: dict[str, Tensor] = {}
        if draws.step % self.settings.attack_every == 0 or self.pair.target_delta is None:
            number = int(torch.randint(len(self.prompts), (), generator=draws.shared))
            told = self._search(number, draws.shared)
        number = self.pair.number
        target_states = self._target_states(number)
        latents, timesteps, target = self._target(draws, number, target_states)
        asked = self._asked_states(number)
        predicted = self.pupil(latents, timesteps, asked.expand(len(latents), -1, -1))
        return {TOTAL: noise_loss(predicted, target), **told}

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
        return partial_sample(
            self.sampler,
            states.to(device),
            self.empty.to(device),
            noise=noise.to(device),
            step_index=indices,
            steps=steps,
            guidance_scale=settings.guidance_scale,
            alignment=settings.alignment,
            generator=generators[0],
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
        """Rectify the gradient, or the step itself, against the way back to the original."""
        mode = self.settings.retain_mode
        pull = self._pull()
        distance = float(torch.stack([one.square().sum() for one in pull.values()]).sum().sqrt())
        told = {"distance": distance}
        if mode == "penalty":
            for name, parameter in self._with_gradient().items():
                parameter.grad = _gradient(parameter) + self.settings.retain_weight * pull[name]
        if mode == "projection" and self.settings.rectify == "before":
            found = self.rectifier({n: _gradient(p) for n, p in self._with_gradient().items()}, pull)
            for name, parameter in self._with_gradient().items():
                parameter.grad = found.gradients[name]
            told |= _numbers(found)
        if mode == "projection" and self.settings.rectify == "after":
            return {**told, **self._rectify_step(step, pull)}
        step()
        return told

    @torch.no_grad()
    def _rectify_step(self, step: Callable[[], object], pull: Mapping[str, Tensor]) -> Mapping[str, float]:
        trained = self._with_gradient()
        before = {name: parameter.detach().clone() for name, parameter in trained.items()}
        step()
        found = self.rectifier({name: before[name] - parameter for name, parameter in trained.items()}, pull)
        for name, parameter in trained.items():
            parameter.copy_(before[name] - found.gradients[name])
        return _numbers(found)

    def _with_gradient(self) -> dict[str, nn.Parameter]:
        return {name: one for name, one in self.student.parameters.items() if one.grad is not None}

    @torch.no_grad()
    def _pull(self) -> dict[str, Tensor]:
        """g_r = θ - θ0 in float32, by name."""
        teacher = self.student.teacher
        return {name: one.detach() - teacher[name].float() for name, one in self.student.parameters.items()}

    @property
    def evaluations(self) -> int:
        """UNet evaluations so far, one for each sample of a batch: latents, searches, training."""
        predictors = [self.teacher, self.pupil]
        if self.kept is not None:
            predictors.append(self.kept.bank.source.predictor)
        return evaluations_of(predictors)

    def identity(self) -> Mapping[str, Any]:
        """Fingerprints of everything that the run reads."""
        return {
            **fingerprints(self.components),
            "prompts": list(self.prompts),
            "scopes": list(self.scopes),
        }

    def state(self) -> Mapping[str, Tensor]:
        """Both finds, ω and what it goes by, and trajectories that are not used up."""
        parts = {"pair": self.pair.state(), "rectifier": self.rectifier.state()}
        if self.kept is not None:
            parts["kept"] = self.kept.bank.state()
        return joined_state(parts)

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take up what `state` gave."""
        self.pair.load_state(part_of(state, "pair"))
        device = next(iter(self.student.parameters.values())).device
        self.rectifier.load_state(part_of(state, "rectifier"), device=device)
        if self.kept is not None:
            self.kept.bank.load_state(part_of(state, "kept"))


def _gradient(parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:
        raise RuntimeError("a gradient is asked for where there is none")
    return parameter.grad


def _numbers(found: Rectified) -> dict[str, float]:
    return {"cosine": found.cosine, "omega": found.omega, "conflicts": found.conflicts}
