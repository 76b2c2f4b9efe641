"""Erasure methods: from a pipeline and settings to an artifact.

registry          which methods there are; a new one is one new file here
config            settings that every method shares, and how far a run is

Closed forms:
closed_form       least-squares edits: statistics, one factorisation, one matrix for all layers
token_positions   which text states of a prompt are mapped
text_states       prompts to statistics, streamed (stored_prior: a file of what stays)
text_edit         from pairs of prompts to one edit of everything that reads text
uce               unified concept editing
compose           several erasures as one, from their statistics (compose_parts, stored_statistics)

Training by gradients:
settings          the loop's flags, and presets
loop              the one place that steps an optimizer: processes, resuming
optimizer         Adam over named parameters, its state as plain tensors; schedules are its learning rates
draws             randomness by address: the same for every split of a batch, and after resuming
checkpoint        complete or not there, without pickle, bound to their run (agreement: to which)
stopping          SIGTERM and SIGINT let a step finish
trackers          where the numbers of a run go (log_picture: how they are drawn)
callbacks         progress, sample grids, measurements, the stop on divergence (validation: pictures of a run)
losses            the papers' losses as pure functions
student           the trainable copy of a component
artifact_run      the way from a task to an artifact (task_state: what a task of several parts keeps)
latents           noisy latents with what the frozen model says there (text_memo: the same text read once)
concept_prompts   wordings of the concept, each with what it is erased from
guided_settings   what every method is told that erases by negative guidance (retain_settings: and by prompts)
esd               erasing by negative guidance (esd_settings, esd_task)
adversary         which prompt the model in training is attacked with (AdvUnlearn's lower level)
retention         latents of what must stay (retain_gradient: their gradient by itself)
advunlearn        a robust text encoder by adversarial training (advunlearn_settings, advunlearn_task)
trce              mapping what prompts imply, and steering early steps (trce_settings, _mapping, _task)
soft_pair         an erasure target and an adversarial prompt, one signed step at a time (AEGIS)
rectification     gradients against the way back to the original weights (AEGIS)
aegis             robust erasure without retention data (aegis_settings, aegis_task, aegis_step)
"""

from .callbacks import Callback, Measure, ReportProgress, SampleGrid, StepReport, StopOnDivergence
from .config import Progress, ProgressCallback, TrainingConfig
from .draws import StepDraws
from .loop import TrainingOutcome, TrainingTask, run_training
from .registry import MethodSpec, erasure_method, method, methods
from .settings import GradientTrainingConfig, Preset, TrainingSettings
from .stopping import TrainingStopped

__all__ = [
    "Callback",
    "GradientTrainingConfig",
    "Measure",
    "MethodSpec",
    "Preset",
    "Progress",
    "ProgressCallback",
    "ReportProgress",
    "SampleGrid",
    "StepDraws",
    "StepReport",
    "StopOnDivergence",
    "TrainingConfig",
    "TrainingOutcome",
    "TrainingSettings",
    "TrainingStopped",
    "TrainingTask",
    "erasure_method",
    "method",
    "methods",
    "run_training",
]
