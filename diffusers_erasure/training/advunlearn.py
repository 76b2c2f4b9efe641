"""AdvUnlearn: adversarial training of a robust text encoder (Zhang et al., arXiv:2405.15234).

Erasing alone (ESD) is undone by a few adversarial tokens, so the erased model is trained on just these. With
the concept's prompt c, free token embeddings δ in it, and the frozen original e_o, every iteration solves

    lower level    δ* = argmin_δ | e_θ(z_t | [δ ; c]) - e_o(z_t | c) |²             in K steps from random
    upper level    min_θ | e_θ(z_t | [δ* ; c]) - (e_o(z_t) - η (e_o(z_t | c) - e_o(z_t))) |²
                         + γ | e_θ(z_t | r) - e_o(z_t | r) |²            r of a retain set, 5 at a time

(section 4 and algorithm 1 of the paper; η = 1, γ = 0.3 for nudity and 0.5 for styles and objects, K = 30 Adam
steps at 1e-3, or one signed step: *fast AT*). The upper target is always of the plain concept. θ are weights
of the text encoder: all layers for nudity, the first one for styles and objects; such an encoder is a *plug
and play* unlearner of every pipeline that reads it. The UNet can be trained instead; the paper finds that
worse.

Cost. With a text encoder in training, z_t and every e_o are those of the frozen original: they depend neither
on θ nor on δ. The paper samples each z_t anew, 95 % of its work. Here they come from a pool of trajectories
(`latents_from`, see `latents`), made once; what remains of an iteration are 36 passes, forward and back.

Presets. `object`, `style`, `nudity`, `fast`: the paper's. `embedded`: for the 64-pixel model of this package.
`reference`: the commands in the authors' README (github.com/OPTML-Group/AdvUnlearn at 9d23124) with what
their code does otherwise than the paper. Beside settings that are flags of their own (200 iterations before
the adversary begins, latents cleaner than the timestep that the UNet is told), these are the `deviations`:

    words               tokens are counted as words, so that a concept of several tokens per word loses some
    lost_step           the last step of the search is thrown away: one step gives back the random start
    summed_gradients    gradients of the search are never cleared
    latest_slice        `latest` starts from what stands at the first places, whatever the free tokens' place
    layer_prefix        layer 1 means 1, 10 and 11

What crashes in that code, and its attack on encoder outputs, through which the encoder gets no gradient, have
no counterpart here.
"""

from __future__ import annotations

from diffusers import DiffusionPipeline

from diffusers_erasure.artifacts.artifact import Artifact
from diffusers_erasure.artifacts.manifest import BaseModelRef
from diffusers_erasure.diffusion import DiffusionComponents, text_layers_by_prefix
from diffusers_erasure.prompts import world_of

from .advunlearn_settings import AdvUnlearnConfig
from .advunlearn_task import AdvUnlearnTask
from .artifact_run import train_to_artifact
from .beginning import begun, check_base
from .concept_prompts import concept_prompts
from .config import Progress, ProgressCallback, silent
from .prompt_records import records_with
from .registry import erasure_method
from .student import Student


@erasure_method(name="advunlearn", config=AdvUnlearnConfig)
def train_advunlearn(
    pipe: DiffusionPipeline,
    config: AdvUnlearnConfig,
    *,
    base: BaseModelRef,
    progress: ProgressCallback = silent,
) -> Artifact:
    """Adversarial training of a robust text encoder (AdvUnlearn, arXiv:2405.15234).

    Args:
        pipe: Base pipeline with one text encoder; it is read, not changed.
        config: Settings.
        base: How the artifact names the base model.
        progress: Called as the run goes on.

    Raises:
        ConfigError: The settings contradict each other, the retain set cannot be used, or nothing changed.
        TrainingError: The run diverges, or a checkpoint belongs to another run.
        TrainingStopped: A signal asked to stop; the run is saved.
    """
    check_base(config, base)
    with begun(config):
        components = DiffusionComponents.from_pipeline(pipe)
        world = world_of(base.id)
        prompts = concept_prompts(config, world=world)
        student = Student.of(
            components,
            _group(config, components),
            part=config.train_part,
            gradient_checkpointing=config.gradient_checkpointing,
        )
        task = AdvUnlearnTask(
            components,
            student,
            prompts,
            config,
            world=world,
            progress=lambda what, done, total: progress(Progress(what, done, total)),
        )
        return train_to_artifact(
            pipe,
            task,
            config,
            method="advunlearn",
            base=base,
            progress=progress,
            settings=records_with(config, () if task.retention is None else task.retention.prompts),
        )


def _group(config: AdvUnlearnConfig, components: DiffusionComponents) -> str:
    """The group of weights that is trained, read as the authors' code does where that is asked for."""
    if "layer_prefix" not in config.deviations:
        return config.train_method
    return text_layers_by_prefix(config.train_method, components.text_encoder)
