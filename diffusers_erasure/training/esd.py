"""ESD: erased stable diffusion (Gandikota et al., arXiv:2303.07345).

The model in training, `e_theta`, learns to predict for the concept c what the frozen original, `e_o`, would
predict if it were guided away from it,

    e_theta(z_t | c)  <-  e_o(z_t) - η (e_o(z_t | c) - e_o(z_t))

at latents z_t that are sampled for the concept up to a random step. Which weights are trained decides how far
the erasure reaches:

    esd-x               the UNet's cross-attention: the concept is erased where a prompt names it (styles)
    esd-u               everything but the cross-attention: also where no prompt names it (objects, nudity)
    text_encoder_full   the text encoder: any UNet that reads it is erased too

A *scope* (the authors' `erase_from`) is a wider concept that stays: o = e_o(z_t | scope) takes the place of
e_o(z_t). A style that is worded with subjects is erased from each subject, "a dog, ink style" from "a dog";
from everything, the subject would be pushed away with it (measured: the objects go and the style stays).
Several concepts take turns at random.

Presets. `paper`: 1000 steps of Adam at 1e-5, η = 1, latents sampled by the model in training, guidance 3, 50
steps, batch 1. `code`: what the authors' present code for diffusers does (github.com/rohitgandikota/erasing,
`esd_sd.py` at ce8d4d9): 200 steps at 5e-5; latents sampled by the original; the target is
e_o(c) - η (e_o(c) - e_o()) with η = 2, the same as the paper's with η = 1; with a scope the target is
e_o(scope) - η (e_o(c) - e_o()), asked of the student *for the scope's prompt*; only linear and convolution
layers are trained. Its bfloat16 weights, PNDM sampler and fixed 1024 pixels are not taken over. `embedded`:
the paper's objective with steps and rates for the 64-pixel model that comes with this package, in four
wordings of the concept and its synonyms, on latents of the original.
"""

from __future__ import annotations

from diffusers import DiffusionPipeline

from diffusers_erasure.artifacts.artifact import Artifact
from diffusers_erasure.artifacts.manifest import BaseModelRef
from diffusers_erasure.diffusion import DiffusionComponents
from diffusers_erasure.prompts import world_of

from .artifact_run import train_to_artifact
from .beginning import begun, check_base
from .concept_prompts import concept_prompts
from .config import Progress, ProgressCallback, silent
from .esd_settings import ESDConfig
from .esd_task import ESDTask
from .registry import erasure_method
from .student import Student


@erasure_method(name="esd", config=ESDConfig)
def train_esd(
    pipe: DiffusionPipeline, config: ESDConfig, *, base: BaseModelRef, progress: ProgressCallback = silent
) -> Artifact:
    """Fine-tuning away from the concept by its own guidance (ESD, arXiv:2303.07345).

    Args:
        pipe: Base pipeline with one text encoder; it is read, not changed.
        config: Settings.
        base: How the artifact names the base model.
        progress: Called as the run goes on.

    Raises:
        ConfigError: The settings contradict each other, or changed no weight.
        TrainingError: The run diverges, or a checkpoint belongs to another run.
        TrainingStopped: A signal asked to stop; the run is saved.
    """
    check_base(config, base)
    with begun(config):
        components = DiffusionComponents.from_pipeline(pipe)
        world = world_of(base.id)
        scoped = config.target_rule == "paper"  # the code's rule takes one scope and no subjects
        prompts = concept_prompts(config, world=world, scoped=scoped)
        student = Student.of(
            components, config.train_method, gradient_checkpointing=config.gradient_checkpointing
        )
        task = ESDTask(
            components,
            student,
            prompts,
            config,
            progress=lambda done, total: progress(Progress("trajectories", done, total)),
        )
        return train_to_artifact(
            pipe,
            task,
            config,
            method="esd",
            base=base,
            progress=progress,
        )
