"""Hard prompts by projected gradients: PEZ, arXiv 2302.03668, algorithm 1.

A hard prompt consists of tokens of the vocabulary. PEZ keeps a continuous iterate P beside it and takes
gradients where they count, at the projection:

    P'  ←  nearest token embeddings of P        what the model is shown
    g   ←  gradient of the loss at P'
    P   ←  P − γ g                              with AdamW in place of the plain step

so that many small steps add up until a token flips, while the loss is always that of real tokens.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from diffusers_erasure.errors import ConfigError


def nearest_tokens(embeddings: Tensor, matrix: Tensor, allowed: Tensor) -> Tensor:
    """Tokens whose embeddings point most nearly in the direction of the given ones (cosine).

    Args:
        embeddings: `(batch, tokens, width)`.
        matrix: Token embeddings of the vocabulary, `(vocabulary, width)`.
        allowed: Token ids that may be chosen, `(choices,)`.

    Returns:
        Token ids `(batch, tokens)`.

    Raises:
        ConfigError: No token is allowed.
    """
    if not len(allowed):
        raise ConfigError(
            "0 tokens are allowed in a hard prompt; expected one of the vocabulary or more; allow some"
        )
    choices = F.normalize(matrix[allowed].float(), dim=-1)
    wanted = F.normalize(embeddings.detach().float(), dim=-1)
    similarity = wanted.flatten(0, -2) @ choices.T
    return allowed[similarity.argmax(dim=-1)].view(embeddings.shape[:-1])


def project(iterate: Tensor, matrix: Tensor, ids: Tensor) -> Tensor:
    """Embeddings of `ids`, whose gradient goes to `iterate` unchanged.

    Args:
        iterate: Continuous embeddings P, `(batch, tokens, width)`.
        matrix: Token embeddings of the vocabulary, `(vocabulary, width)`.
        ids: Projection of `iterate`, `(batch, tokens)`.
    """
    return iterate + (matrix[ids].to(iterate) - iterate).detach()
