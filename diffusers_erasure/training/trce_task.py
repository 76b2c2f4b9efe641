"""What TRCE's second stage minimises at one step: see `trce` for the method, `losses` for the formulas."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from diffusers_erasure.diffusion import (
    BankDraw,
    DiffusionComponents,
    NoisePredictor,
    TextPath,
    evaluating,
)
from diffusers_erasure.diffusion.bank_settings import BankSettings
from diffusers_erasure.diffusion.noise import evaluations_of
from diffusers_erasure.prompts import PromptPair

from .agreement import fingerprints
from .draws import StepDraws
from .latents import BANK_MODES, BankReport, TeacherLatents, joined, told_of, unconditional_of
from .losses import noise_loss, steering_hinge, steering_margin, steering_target, weighted_losses
from .student import Student, frozen_unet
from .task_state import joined_state, part_of
from .trce_settings import TRCEConfig


class SteeringTask:
    """A `TrainingTask`: steer the early steps of sampling from the malicious prompts to the safe ones.

    Args:
        components: The frozen base model.
        mapped: The same with the UNet that stage 1 left; the base itself without stage 1.
        student: What is trained, a copy of the mapped one.
        pairs: Malicious prompts with their safe counterparts, drawn uniformly.
        settings: Of TRCE.
        mapping: Digest of the prompts that stage 1 read; None without stage 1.
        progress: Told how far pools of trajectories are.
    """

    def __init__(
        self,
        components: DiffusionComponents,
        mapped: DiffusionComponents,
        student: Student,
        pairs: Sequence[PromptPair],
        settings: TRCEConfig,
        *,
        mapping: str | None = None,
        progress: BankReport | None = None,
    ) -> None:
        self.components, self.student, self.settings = components, student, settings
        self.mapping = mapping
        self.prompts = tuple(pair.source for pair in pairs)
        self.safe_prompts = tuple(pair.target for pair in pairs)
        self.teacher = NoisePredictor.of(components, unet=frozen_unet(components.unet))
        self.pupil = NoisePredictor.of(components, unet=student.module)
        text = TextPath(components)
        with evaluating(components.text_encoder):
            self.concepts = text.encode(self.prompts)
            self.safe = text.encode(self.safe_prompts)
            self.empty = text.encode("")
        self.latents = self._concept_latents(progress)
        self.stay = self._unconditional_latents(mapped, progress)
        self.summed = _SummedGradients(student) if "summed_gradients" in settings.deviations else None

    def _bank(self, trajectories: int, **values: Any) -> BankSettings:
        settings = self.settings
        return BankSettings(
            mode=BANK_MODES[settings.latents_from],
            steps=settings.num_inference_steps,
            trajectories_per_prompt=trajectories if settings.latents_from == "pool" else 1,
            dtype=settings.latents_dtype if settings.latents_from == "pool" else "float32",
            seed=settings.seed,
            **values,
        )

    def _concept_latents(self, progress: BankReport | None) -> TeacherLatents:
        """Latents of the early steps of the malicious prompts, with what the original says there."""
        settings = self.settings
        chosen = self._bank(
            settings.trajectories_per_prompt,
            early_steps=settings.early_steps,
            guidance_scale=settings.guidance_scale,
        )
        kept = chosen.mode == "pool" and settings.run_folder is not None
        folder = settings.run_folder / "trajectories" if kept and settings.run_folder else None
        if folder is not None and settings.overwrite and not settings.resume_from_checkpoint:
            shutil.rmtree(folder, ignore_errors=True)  # an earlier run's
        return TeacherLatents.build(
            self.components,
            self.prompts,
            chosen,
            folder=folder,
            progress=told_of(progress, "concept latents"),
        )

    def _unconditional_latents(
        self, mapped: DiffusionComponents, progress: BankReport | None
    ) -> TeacherLatents:
        """Latents of the original without a prompt, with what the model of stage 1 says there."""
        chosen = self._bank(
            self.settings.regularization_trajectories, guidance_scale=1.0, unconditional=False
        )
        frozen = replace(mapped, unet=frozen_unet(mapped.unet))
        return TeacherLatents.build(
            frozen, [""], chosen, sampler=self.teacher, progress=told_of(progress, "unconditional latents")
        )

    def parameters(self) -> Mapping[str, nn.Parameter]:
        """The student's trained weights."""
        return self.student.parameters

    def losses(self, draws: StepDraws) -> Mapping[str, Tensor]:
        """Half of both hinges, and λ times the distance to stage 1 on latents without a prompt.

        `margin` and `margin without prompt` are |e - f_safe|² - |e - f_unsafe|², means over the pass: they
        begin above 0 and are to fall below -δ.
        """
        settings = self.settings
        chosen = draws.integers(len(self.prompts))
        found = self._told_later(self.latents.draw(draws, chosen))
        safe, unsafe = self._targets(found, chosen)
        kept = self._kept(draws)
        asked, without, stays = self._predict(found, chosen, kept)
        margins = [steering_margin(one, safe, unsafe) for one in (asked, without)]
        hinges = [steering_hinge(margin, settings.steering_margin) for margin in margins]
        terms = {"erase": (hinges[0] + hinges[1]) / 2, "stay": noise_loss(stays, kept.target_conditional)}
        losses = weighted_losses(terms, {"stay": settings.regularization_weight})
        told = {"margin": margins[0].detach().mean(), "margin without prompt": margins[1].detach().mean()}
        return {**losses, **told}

    @torch.no_grad()
    def _targets(self, found: BankDraw, chosen: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The amplified directions to the safe and to the malicious prompt, of the original."""
        rows = list(chosen)
        concept, without = found.target_conditional, unconditional_of(found)
        if self._shifted:  # what the bank holds was said at the latents' own timestep
            concept, without = self.teacher.both(
                found.latents, found.timesteps, self.concepts[rows], self.empty
            )
        safe = self.teacher(found.latents, found.timesteps, self.safe[rows])
        beta = self.settings.steering_guidance
        return steering_target(safe, without, beta), steering_target(concept, without, beta)

    def _kept(self, draws: StepDraws) -> BankDraw:
        """Rows of trajectories without a prompt, some for each sample of the pass."""
        many = self.settings.regularization_batch_size
        rows = joined([self.stay.bank.draw(generator, many) for generator in draws.samples])
        if not self._shifted:
            return rows
        extra = torch.cat([torch.randint(self._stride, (many,), generator=one) for one in draws.samples])
        later = self._later(rows.timesteps, extra.to(rows.timesteps.device))
        with torch.no_grad():  # what the bank holds was said at the latents' own timestep
            empty = self.empty.expand(len(later), -1, -1)
            said = self.stay.bank.source.predictor(rows.latents, later, empty)
        return replace(rows, timesteps=later, target_conditional=said)

    def _predict(
        self, found: BankDraw, chosen: Sequence[int], kept: BankDraw
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What the student says for the malicious prompts, without a prompt there, and on the kept rows."""
        rows, stays = len(found.latents), len(kept.latents)
        states = torch.cat([self.concepts[list(chosen)], self.empty.expand(rows + stays, -1, -1)])
        latents = torch.cat([found.latents, found.latents, kept.latents])
        timesteps = torch.cat([found.timesteps, found.timesteps, kept.timesteps])
        asked, without, unprompted = self.pupil(latents, timesteps, states).split([rows, rows, stays])
        return asked, without, unprompted

    @property
    def _shifted(self) -> bool:
        return "shifted_latents" in self.settings.deviations

    @property
    def _stride(self) -> int:
        """Timesteps from one sampling step to the next."""
        return len(self.teacher.alphas_cumprod) // self.settings.num_inference_steps

    def _later(self, timesteps: Tensor, extra: Tensor | int = 0) -> Tensor:
        """Timesteps of the step before the one that a latent belongs to, as the authors' code tells them."""
        return (timesteps + self._stride + extra).clamp(max=len(self.teacher.alphas_cumprod) - 1)

    def _told_later(self, found: BankDraw) -> BankDraw:
        return replace(found, timesteps=self._later(found.timesteps)) if self._shifted else found

    @property
    def evaluations(self) -> int:
        """UNet evaluations so far, one for each sample of a batch: latents, targets, training."""
        banks = [self.latents.bank.source, self.stay.bank.source]
        predictors = [self.pupil, self.teacher, *(bank.predictor for bank in banks)]
        return evaluations_of(predictors)

    def identity(self) -> Mapping[str, Any]:
        """Fingerprints of everything that the run reads; what stage 1 left follows from it."""
        return {
            **fingerprints(self.components),
            "stage 1": self.mapping,
            "prompts": list(self.prompts),
            "safe prompts": list(self.safe_prompts),
        }

    def state(self) -> Mapping[str, Tensor]:
        """Trajectories that are not used up, and gradients that were never cleared."""
        parts = {"concept": self.latents.bank.state(), "stay": self.stay.bank.state()}
        if self.summed is not None:
            parts["summed"] = self.summed.past
        return joined_state(parts)

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take up what `state` gave."""
        self.latents.bank.load_state(part_of(state, "concept"))
        self.stay.bank.load_state(part_of(state, "stay"))
        if self.summed is not None:
            self.summed.past = part_of(state, "summed")


class _SummedGradients:
    """The authors' code never clears gradients: every update goes along the sum of all so far.

    Attributes:
        past: That sum, by the parameter's name.
    """

    def __init__(self, student: Student) -> None:
        self.past: dict[str, Tensor] = {}
        for name, parameter in student.parameters.items():
            parameter.register_post_accumulate_grad_hook(self._adding(name))

    def _adding(self, name: str) -> Callable[[Tensor], None]:
        def add(parameter: Tensor) -> None:
            if parameter.grad is None:
                return
            before = self.past.get(name)
            if before is not None:
                parameter.grad += before.to(parameter.grad.device)
            self.past[name] = parameter.grad.detach().clone()

        return add
