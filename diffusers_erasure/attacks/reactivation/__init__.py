"""What somebody can do to an erased pipeline who holds more than a prompt: weights, pictures, text states.

copies         private copies of modules, and stock pipelines on them
int8           weights rounded to 8 bits
fine_tuning    LoRA and full fine-tuning with the plain denoising loss
inputs         pictures and text states given to the pipeline from outside

Each of them works on copies: the caller's pipeline and its modules stay as they are. None of them is an
attack on single prompts, so the table of attacks does not list them.
"""

from .copies import private_copy, stock_pipeline
from .fine_tuning import FineTuned, FineTuningConfig, TuningPictures, Way, denoising_loss, fine_tune
from .inputs import PictureInput, StateInput, centre_mask
from .int8 import int8_copy, int8_round_trip

__all__ = [
    "FineTuned",
    "FineTuningConfig",
    "PictureInput",
    "StateInput",
    "TuningPictures",
    "Way",
    "centre_mask",
    "denoising_loss",
    "fine_tune",
    "int8_copy",
    "int8_round_trip",
    "private_copy",
    "stock_pipeline",
]
