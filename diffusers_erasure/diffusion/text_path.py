"""From token embeddings to text states, differentiable, for any text encoder.

Attacks and adversarial training look for *embeddings* that bring a concept back, but a text encoder takes
token ids. `TextPath` gives the encoder ids and, with a forward hook on its token embedding, exchanges what
they are looked up as. Positions, mask and layers remain the encoder's own code, so that with the looked-up
embeddings the states equal the stock ones bit for bit. The hook lives only during the call.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from diffusers_erasure.errors import ConfigError

from .components import DiffusionComponents
from .text import tokenize


@dataclass(frozen=True, init=False)
class TextPath:
    """The way of a prompt through a pipeline's text encoder, open at the token embeddings.

    Attributes:
        components: Whose tokenizer and encoder.
        encoder: The text encoder, used in place: neither copied nor frozen.
    """

    components: DiffusionComponents
    encoder: PreTrainedModel

    def __init__(self, components: DiffusionComponents, *, encoder: PreTrainedModel | None = None) -> None:
        """Take a pipeline's tokenizer and its encoder, or another encoder (a student) in its place."""
        object.__setattr__(self, "components", components)
        object.__setattr__(self, "encoder", components.text_encoder if encoder is None else encoder)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The pipeline's tokenizer."""
        return self.components.tokenizer

    @property
    def length(self) -> int:
        """Tokens of a padded prompt."""
        return self.components.max_tokens

    @property
    def device(self) -> torch.device:
        """Where ids and embeddings go."""
        return next(self.encoder.parameters()).device

    @property
    def embedding(self) -> nn.Module:
        """The layer that looks token ids up."""
        layer: nn.Module = self.encoder.get_input_embeddings()
        return layer

    @property
    def embedding_matrix(self) -> Tensor:
        """Embeddings of the vocabulary, `(vocabulary, width)`; the encoder's own weight."""
        weight: Any = self.embedding.weight
        matrix: Tensor = weight
        return matrix

    def ids(self, prompts: str | Sequence[str]) -> Tensor:
        """Token ids of prompts as the pipeline makes them: cut and padded, `(batch, tokens)`."""
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        return self.pad([tokenize(self.tokenizer, text, max_tokens=self.length).ids for text in texts])

    def pad(self, ids: Sequence[int] | Sequence[Sequence[int]] | Tensor) -> Tensor:
        """Ids with padding up to the model's length, `(batch, tokens)`, on the encoder's device.

        Raises:
            ConfigError: A row is longer than the model reads.
        """
        given: list[Any] = ids.tolist() if isinstance(ids, Tensor) else list(ids)
        rows: list[list[int]] = given if given and not isinstance(given[0], int) else [given]
        longest = max(len(row) for row in rows)
        if longest > self.length:
            raise ConfigError(
                f"{longest} token ids do not fit; the text encoder reads {self.length}, start and end token "
                f"included; shorten the prompt"
            )
        pad = self.tokenizer.pad_token_id
        return torch.tensor([[*row, *[pad] * (self.length - len(row))] for row in rows], device=self.device)

    def token_embeddings(self, ids: Tensor) -> Tensor:
        """What the encoder looks ids up as, without positions, `(batch, tokens, width)`."""
        found: Tensor = self.embedding(ids.to(self.device))
        return found

    def states(self, ids: Tensor, embeddings: Tensor | None = None) -> Tensor:
        """Text states `(batch, tokens, width)`, differentiable in embeddings and weights.

        Args:
            ids: `(batch, tokens)`, or one row for all embeddings. With embeddings, the ids only say where the
                prompt ends, so stand-ins must not be end tokens.
            embeddings: Token embeddings `(batch, tokens, width)` in place of those of the ids.

        Raises:
            ConfigError: Ids and embeddings do not fit together, or the encoder does not look ids up.
        """
        rows = ids.to(self.device)
        rows = rows.unsqueeze(0) if rows.ndim == 1 else rows
        if embeddings is None:
            return self._forward(rows)
        width = self.embedding_matrix.shape[1]
        if rows.shape[0] == 1:
            rows = rows.expand(embeddings.shape[0], -1)
        if embeddings.shape != (*rows.shape, width):
            raise ConfigError(
                f"embeddings of shape {tuple(embeddings.shape)} came with ids of shape {tuple(ids.shape)}; "
                f"expected {(*rows.shape, width)}; give one embedding for each token"
            )
        with _looked_up_as(self.embedding, embeddings) as used:
            states = self._forward(rows)
        if not used:
            raise ConfigError(
                f"{type(self.encoder).__name__} gave states without looking its token ids up; embeddings can "
                f"only be exchanged in an encoder that calls its input embedding; use a plain text encoder"
            )
        return states

    def encode(self, prompts: str | Sequence[str]) -> Tensor:
        """States of prompts, `(batch, tokens, width)`, equal to what the pipeline computes."""
        return self.states(self.ids(prompts))

    def _forward(self, ids: Tensor) -> Tensor:
        states: Tensor = self.encoder(ids, attention_mask=self._mask(ids)).last_hidden_state
        return states

    def _mask(self, ids: Tensor) -> Tensor | None:
        """Attention mask `(batch, tokens)` for encoders that want one: up to and with the first end token."""
        if not getattr(self.encoder.config, "use_attention_mask", False):
            return None
        ended = (ids == self.tokenizer.eos_token_id).long().cumsum(dim=1)
        before = torch.cat([torch.zeros_like(ended[:, :1]), ended[:, :-1]], dim=1)
        return (before == 0).long()


@contextmanager
def _looked_up_as(layer: nn.Module, embeddings: Tensor) -> Iterator[list[bool]]:
    """Let a layer return these embeddings; the list tells whether it was called."""
    used: list[bool] = []

    def exchange(_layer: nn.Module, _arguments: tuple[Any, ...], output: Tensor) -> Tensor:
        used.append(True)
        return embeddings.to(output.device, output.dtype)

    handle = layer.register_forward_hook(exchange)
    try:
        yield used
    finally:
        handle.remove()
