"""What methods and attacks need of a diffusion model, for any width, depth and length.

components        tokenizer, text encoder, UNet, VAE and scheduler in one bundle
text              prompts to tokens to text states, and where in them a concept stands
cross_attention   the matrices that a UNet applies to text states
"""

from .components import DiffusionComponents, evaluating
from .cross_attention import TextProjection, text_projections
from .text import EncodedBatch, TokenizedPrompt, distinct, encode, tokenize

__all__ = [
    "DiffusionComponents",
    "EncodedBatch",
    "TextProjection",
    "TokenizedPrompt",
    "distinct",
    "encode",
    "evaluating",
    "text_projections",
    "tokenize",
]
