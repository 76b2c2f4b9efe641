"""What methods and attacks need of a diffusion model, for any width, depth and length.

components        tokenizer, text encoder, UNet, VAE and scheduler in one bundle
text              prompts to tokens to text states, and where in them a concept stands
text_path         the same, open at the token embeddings and differentiable
soft_prompt       where the free tokens of an attacked prompt stand
cross_attention   the matrices that a UNet applies to text states
schedule          the trained noise schedule, and DDIM's step as a formula
noise             what the UNet says about the noise, with and without guidance
attention         the one whose gradient is fast on a CPU
parameters        which weights a method trains, in named groups
sampling          latents on the way from noise to a picture
trajectories      the same at many steps, with what the frozen model predicts there
bank              where training draws them from: anew, shared, or from a stock (bank_settings, bank_files)
identity          what stored latents, pictures and outcomes were made from
precision         float64 where the device has it, and elsewhere where it does not
"""

from .bank import BankDraw, BankProgress, TrajectoryBank
from .bank_files import Storage
from .bank_settings import BankMode, BankSettings
from .components import DiffusionComponents, evaluating, latent_shape
from .cross_attention import TextProjection, text_projections
from .noise import NoisePredictor, PredictionType, add_noise, guide, noise_from_output
from .parameters import (
    Component,
    LayerPart,
    component_of,
    frozen,
    only_trainable,
    parameter_groups,
    text_layers_by_prefix,
    trainable_parameters,
)
from .sampling import Alignment, SamplingPath, partial_sample
from .schedule import ddim_grid, ddim_step, training_scheduler
from .soft_prompt import Placement, SoftPrompt, ordinary_tokens
from .text import EncodedBatch, TokenizedPrompt, distinct, encode, tokenize
from .text_path import TextPath
from .trajectories import Pairs, TrajectorySource

__all__ = [
    "Alignment",
    "BankDraw",
    "BankMode",
    "BankProgress",
    "BankSettings",
    "Component",
    "DiffusionComponents",
    "EncodedBatch",
    "LayerPart",
    "NoisePredictor",
    "Pairs",
    "Placement",
    "PredictionType",
    "SamplingPath",
    "SoftPrompt",
    "Storage",
    "TextPath",
    "TextProjection",
    "TokenizedPrompt",
    "TrajectoryBank",
    "TrajectorySource",
    "add_noise",
    "component_of",
    "ddim_grid",
    "ddim_step",
    "distinct",
    "encode",
    "evaluating",
    "frozen",
    "guide",
    "latent_shape",
    "noise_from_output",
    "only_trainable",
    "ordinary_tokens",
    "parameter_groups",
    "partial_sample",
    "text_layers_by_prefix",
    "text_projections",
    "tokenize",
    "trainable_parameters",
    "training_scheduler",
]
