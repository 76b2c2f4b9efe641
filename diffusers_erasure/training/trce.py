"""TRCE: erasing what prompts only imply, in two stages (Chen et al., arXiv:2503.07389, ICCV 2025).

Stage 1, *textual semantic erasure*. What cross-attention hears of a malicious prompt is mapped to what it
hears of a safe prompt with the same context. For every key and value matrix W,

    W' = argmin  sum_i |W' e_i^m - W e_i^s|² + η sum_j |W' e_j^k - W e_j^k|²

where
    e^m    is the [EoT] state of a malicious prompt: it has read the whole sentence, so it also holds what a
           metaphor or a synonym means; the concept's own token [KEY] does not, and [SoT] composes the picture
    e^s    the [EoT] state of the same sentence with the concept replaced
    e^k    every state of the retained prompts

One matrix serves all layers, W' = W (I + X), and is found in seconds (`closed_form`).

Stage 2, *denoising trajectory steering*. The first sampling steps decide what a picture will be of. At
latents of these steps, sampled by the original e_o for the malicious prompt m, the model in training e is
steered from the amplified direction of m to that of its safe counterpart s,

    f_p = e_o(z_t) + β (e_o(z_t | p) - e_o(z_t))                                            p = m, s
    L_erase = max(0, |e - f_s|² - |e - f_m|² + δ)              for e(z_t | m) and for e(z_t), half each
    L = L_erase + λ |e(z_u) - e_1(z_u)|²                       z_u on trajectories without a prompt

with e_1 the model of stage 1. Trained are the visual layers, self-attention and the queries of the cross-
attention; what stage 1 solved for, keys and values, stays.

Cost. The authors' default run takes 13 UNet passes for each of 300 updates and 240,000 for its latents. Here
an update takes 7 (e_o(z_t | m), e_o(z_t) and e_1(z_u) come with the latents), and only latents that can be
drawn are sampled, in 7,576 passes: `early_steps` of the malicious prompts, and as many trajectories without a
prompt as serve the run. One frozen UNet and the changed tensors stand for the three of their code.

Presets. `paper`: the settings published for one theme; `themes`: for several. `embedded`: for the 64-pixel
model of this package. `reference`: what the authors' code does otherwise (github.com/ddgoodgood/TRCE at
0da9b71), as `deviations`:

    word_positions     [EoT] is looked for by counting words: missed where a word is several tokens
    released_prior     η is squared, divided by 30,000 and put before a plain sum over the retained states
    summed_gradients   gradients of stage 2 are never cleared
    shifted_latents    latents are one step cleaner than the timestep that the UNet is told (theirs begin one
                       step after ours, so that pure noise, told the last timestep, is among ours alone)

That paper and code find synonyms with a language model; here they are a table's, and `expander` takes a
function that asks one. SDXL's second text encoder has a pooled output that bypasses cross-attention: stage 1
does not reach it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import cached_property

from diffusers import DiffusionPipeline

from diffusers_erasure.artifacts.artifact import Artifact, build_artifact
from diffusers_erasure.artifacts.canary import choose_prompts
from diffusers_erasure.artifacts.copying import edited_copy
from diffusers_erasure.artifacts.edits import DeltaEdit, Edit, apply_edit
from diffusers_erasure.artifacts.manifest import BaseModelRef, SettingRecord
from diffusers_erasure.diffusion import DiffusionComponents, TextProjection, text_projections
from diffusers_erasure.prompts import PromptPair, World, erasure_pairs, world_of

from .artifact_run import train_to_artifact
from .beginning import begun, check_base
from .config import Progress, ProgressCallback, silent
from .prompt_records import FURTHER_PROMPTS, RETAINED_PROMPTS, further_record, retained_record
from .registry import erasure_method, method
from .stored_statistics import STATISTICS_NAME, pack_statistics
from .student import Student
from .text_edit import TextEdit, cross_attention_edit, right_factor_edit
from .trce_mapping import map_prompts, mapping_digest, retained_prompts, trce_pairs
from .trce_settings import TRCEConfig
from .trce_task import SteeringTask

logger = logging.getLogger(__name__)


@erasure_method(name="trce", config=TRCEConfig)
def train_trce(
    pipe: DiffusionPipeline, config: TRCEConfig, *, base: BaseModelRef, progress: ProgressCallback = silent
) -> Artifact:
    """Closed-form mapping of [EoT], then steering of the early steps (TRCE, arXiv:2503.07389).

    Args:
        pipe: Base pipeline; it is read, not changed. Stage 1 takes one with two text encoders, too.
        config: Settings.
        base: How the artifact names the base model.
        progress: Called as the run goes on.

    Raises:
        ConfigError: The settings contradict each other, the pairs cannot be used, or nothing changed.
        TrainingError: The Gram matrix is singular, the run diverges, or a checkpoint belongs to another run.
        TrainingStopped: A signal asked to stop; the run is saved.
    """
    check_base(config, base)
    return _Run(pipe, config, base, progress).artifact()


@dataclass(frozen=True)
class _Run:
    """One run: what `train_trce` was given, and what follows from it."""

    pipe: DiffusionPipeline
    config: TRCEConfig
    base: BaseModelRef
    progress: ProgressCallback

    @cached_property
    def world(self) -> World:
        return world_of(self.base.id)

    @cached_property
    def components(self) -> DiffusionComponents:
        return DiffusionComponents.from_pipeline(self.pipe, second_encoder=self.config.stages == "1")

    @cached_property
    def projections(self) -> tuple[TextProjection, ...]:
        return text_projections(self.components.unet, text_width=self.components.text_width)

    @cached_property
    def pairs(self) -> tuple[PromptPair, ...]:
        """What stage 1 maps."""
        return trce_pairs(self.config, world=self.world, limit=self.config.num_templates)

    def artifact(self) -> Artifact:
        """The stages that are asked for, one after the other."""
        _tell_of_lost_context(self.config)
        if self.config.stages == "1":
            return self._mapped(self._map())
        with begun(self.config):
            if self.config.stages == "2":
                return self._steered(None)
            factor = self._map().factor
            return self._steered(cross_attention_edit(factor, self.projections, self.config.artifact_dtype))

    def _map(self) -> TextEdit:
        """Stage 1: the one matrix."""
        return map_prompts(self.components, self.pairs, self.config, world=self.world, progress=self.progress)

    def _mapped(self, found: TextEdit) -> Artifact:
        """Stage 1 alone, with the statistics that others can be composed with."""
        config, progress = self.config, self.progress
        progress(Progress("artifact", 0, 1))
        make = right_factor_edit if config.edit_form == "right_factor" else cross_attention_edit
        edit: Edit = make(found.factor, self.projections, config.artifact_dtype)
        artifact = build_artifact(
            self.pipe,
            {"unet": edit},
            method="trce",
            method_version=method("trce").version,
            settings=self._records(),
            concepts=config.concepts,
            base=self.base,
            seed=config.seed,
            steps=0,
            canary_prompts=choose_prompts([pair.source for pair in self.pairs]),
        )
        if config.save_statistics:
            document = pack_statistics(found.mapping, self.components)
            artifact = artifact.with_documents({STATISTICS_NAME: document})
        progress(Progress("artifact", 1, 1))
        return artifact

    def _steered(self, patch: DeltaEdit | None) -> Artifact:
        """Stage 2, on what stage 1 left or on the base model."""
        config, progress = self.config, self.progress
        mapped = self.components if patch is None else self._with(patch)
        student = Student.of(
            mapped, config.train_method, gradient_checkpointing=config.gradient_checkpointing
        )
        task = SteeringTask(
            self.components,
            mapped,
            student,
            trce_pairs(config, world=self.world, limit=config.steering_templates),
            config,
            mapping=None if patch is None else mapping_digest(config, self.pairs, world=self.world),
            progress=lambda what, done, total: progress(Progress(what, done, total)),
        )
        return train_to_artifact(
            self.pipe,
            task,
            config,
            method="trce",
            base=self.base,
            progress=progress,
            settings=self._records(),
            already=patch,
        )

    def _with(self, patch: DeltaEdit) -> DiffusionComponents:
        """The components with a UNet that hears what stage 1 decided; it shares all other weights."""
        changed = {
            projection.key: apply_edit(projection.weight, [(patch, 1.0)], name=projection.key)
            for projection in self.projections
        }
        return replace(self.components, unet=edited_copy(self.components.unet, changed))

    def _records(self) -> dict[str, SettingRecord]:
        """The settings; and prompts that are not the tables' own, so that nobody tests on them."""
        config, records = self.config, self.config.records()
        known = {pair.source for pair in erasure_pairs(config.concepts, world=self.world)}
        further = [pair.source for pair in self.pairs if pair.source not in known]
        if further:
            records[FURTHER_PROMPTS] = further_record(further)
        maps = config.stages != "2"
        own = retained_record(config.retain_set, retained_prompts(config, world=self.world)) if maps else None
        if own is not None:
            records[RETAINED_PROMPTS] = own
        return records


def _tell_of_lost_context(config: TRCEConfig) -> None:
    """Warn where nobody says what stands in a concept's place: its safe prompts are then empty ones."""
    without = [leaf.name for leaf in config.concepts.leaves if not leaf.anchor and not config.anchor]
    if without:
        logger.warning(
            "%s has no anchor: the safe counterpart of its prompts is the empty prompt, without their "
            "context; say what is to be drawn in its place, such as anchor person, or anchor '' if this is "
            "meant",
            ", ".join(without),
        )
