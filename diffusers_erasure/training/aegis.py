"""AEGIS: robust erasure without retention data (Li et al., arXiv:2602.06771, ICLR 2026).

A fixed target leaves residue of the concept near its centre, where attacks find it. AEGIS looks for the
target itself, trains against an adversarial prompt, and lets the original's weights say what must stay:

    min_θ [ max_c~ E | e_θ(z_t | c*) - e_0(z_t | c~) |²  +  λ ½ |θ - θ0|² ]

In every iteration, with e_0 the frozen original and e_θ the model in training (`soft_pair`, `rectification`),

    1   an *adversarial erasure target* (AET) c' and an adversarial prompt c*, free tokens before the
        concept's prompt, each move one signed step
    2   L_e = | e_θ(z_t | c*) - ( e_0(z_t) - η (e_0(z_t | c') - e_0(z_t)) ) |²
    3   its gradient is rectified, tensor by tensor, against g_r = θ - θ0 where the two conflict

No prompt is retained. `retain_from prompts` takes the gradient of AdvUnlearn's retain set for g_r, the
paper's ablation without the surrogate (`retain_gradient`); where its projection stands is this package's
reading. The paper trains all of the UNet; other groups, the text encoder among them, are extensions without
published figures. Each of several concepts has soft tokens of its own; an iteration draws one wording.

Cost. The authors sample two partial trajectories by the model in training in every iteration: about 98 UNet
passes, and 7 more. `latents_from pool` or `trajectory` takes latents of the frozen original for the concept,
made once; this is another choice of the method, named in the artifact's settings. One sign for each tensor
stands for the last projection, a copy of the weights (`memory`), and θ - θ0 is made for one tensor at a time:
`benchmarks/aegis.py` and `aegis_memory.py` measure both.

Presets. `paper`. `released`: the command in the authors' README (their code of April 2026): soft tokens drawn
anew in every iteration, μ = 0.2, ω up to 1e6, latents cleaner than the timestep that the UNet is told.
`embedded`: for the 64-pixel model of this package.
"""

from __future__ import annotations

from diffusers import DiffusionPipeline

from diffusers_erasure.artifacts.artifact import Artifact
from diffusers_erasure.artifacts.manifest import BaseModelRef
from diffusers_erasure.diffusion import DiffusionComponents
from diffusers_erasure.prompts import world_of

from .aegis_settings import AEGISConfig
from .aegis_task import AEGISTask
from .artifact_run import train_to_artifact
from .beginning import begun, check_base
from .concept_prompts import concept_prompts
from .config import Progress, ProgressCallback, silent
from .prompt_records import records_with
from .registry import erasure_method
from .student import Student


@erasure_method(name="aegis", config=AEGISConfig)
def train_aegis(
    pipe: DiffusionPipeline, config: AEGISConfig, *, base: BaseModelRef, progress: ProgressCallback = silent
) -> Artifact:
    """Adversarial erasure target and rectified gradients, no retention data (AEGIS, arXiv:2602.06771).

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
        student = Student.of(
            components, config.train_method, gradient_checkpointing=config.gradient_checkpointing
        )
        task = AEGISTask(
            components,
            student,
            concept_prompts(config, world=world_of(base.id)),
            config,
            world=world_of(base.id),
            progress=lambda what, done, total: progress(Progress(what, done, total)),
        )
        return train_to_artifact(
            pipe,
            task,
            config,
            method="aegis",
            base=base,
            progress=progress,
            settings=records_with(config, () if task.retained is None else task.retained.retention.prompts),
        )
