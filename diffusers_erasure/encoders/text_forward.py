"""A CLIP text encoder from embeddings instead of token ids.

Stock `CLIPTextModel.forward` refuses ``inputs_embeds``. Whoever searches prompts by gradients, with code of
their own, needs the states as a function of the embeddings; training and attacks of this package have theirs
from `diffusion.TextPath`, which takes stock encoders too. The computation is the stock one, step for step,
with the embeddings given instead of looked up.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import CLIPTextModel
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPooling

LEGACY_EOS = 2
"""`eos_token_id` of old configs, where the end is found as the highest token id of the prompt."""


def forward_embeddings(
    encoder: CLIPTextModel,
    inputs_embeds: Tensor,
    *,
    input_ids: Tensor | None,
    attention_mask: Tensor | None,
    position_ids: Tensor | None,
    **options: object,
) -> BaseModelOutputWithPooling:
    """States of a prompt that is given as token embeddings.

    Args:
        encoder: The text network.
        inputs_embeds: `(batch, tokens, width)`, without position embeddings.
        input_ids: `(batch, tokens)`; only says where the prompt ends, for the pooled state.
        attention_mask: `(batch, tokens)`, as in the stock forward.
        position_ids: As in the stock forward.
        options: Passed to the layers.

    Returns:
        `last_hidden_state` `(batch, tokens, width)`; `pooler_output` `(batch, width)`, None without
        `input_ids`.
    """
    states = encoder.embeddings(inputs_embeds=inputs_embeds, position_ids=position_ids)
    mask = create_causal_mask(
        config=encoder.config, inputs_embeds=states, attention_mask=attention_mask, past_key_values=None
    )
    options.pop("is_causal", None)
    outputs = encoder.encoder(inputs_embeds=states, attention_mask=mask, is_causal=True, **options)
    states = encoder.final_layer_norm(outputs.last_hidden_state)
    pooled = (
        None if input_ids is None else states[_rows(states), _end_positions(input_ids, encoder.eos_token_id)]
    )
    return BaseModelOutputWithPooling(last_hidden_state=states, pooler_output=pooled)


def _rows(states: Tensor) -> Tensor:
    return torch.arange(states.shape[0], device=states.device)


def _end_positions(input_ids: Tensor, eos_token_id: Any) -> Tensor:
    """Index of each prompt's end token, `(batch,)`."""
    ids = input_ids.reshape(-1, input_ids.shape[-1]).to(torch.int)
    if eos_token_id == LEGACY_EOS:
        return ids.argmax(dim=-1)
    ends: Tensor = ids == eos_token_id
    return ends.int().argmax(dim=-1)
