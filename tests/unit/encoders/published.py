"""Robust encoders in the layout in which they are published: `config.json` and `pytorch_model.bin` alone.

The keys carry the prefix that transformers 4 wrote, the position counter is stored as a tensor of integers,
the state dict is ordered and has its `_metadata`, and the config is of the time: what
`OPTML-Group/AdvUnlearn` holds in each of its subfolders.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

PREFIX = "text_model."
FC1 = f"{PREFIX}encoder.layers.0.mlp.fc1.weight"
POSITION_IDS = f"{PREFIX}embeddings.position_ids"
Tensors = dict[str, Tensor]


def published_tensors(encoder: Any) -> Tensors:
    """State dict of an encoder under the keys of published files, in memory of its own."""
    tensors: Tensors = OrderedDict()
    positions = torch.arange(encoder.config.max_position_embeddings)
    tensors[POSITION_IDS] = positions.expand((1, -1))
    for key, value in encoder.state_dict().items():
        tensors[PREFIX + key] = value.detach().clone()
    tensors._metadata = OrderedDict({"": {"version": 1}})  # type: ignore[attr-defined]
    return tensors


def retrained(tensors: Tensors, *, part: str = ".layers.", seed: int = 0, size: float = 0.05) -> Tensors:
    """The same with noise on the tensors whose name holds `part`, as if they had been trained."""
    generator = torch.Generator().manual_seed(seed)
    for key in (key for key in tensors if part in key):
        tensors[key] += size * torch.randn(tensors[key].shape, generator=generator)
    return tensors


def published_config(encoder: Any) -> dict[str, Any]:
    """A config as transformers 4 wrote it for the encoders of Stable Diffusion 1."""
    config = encoder.config
    sizes = (
        "hidden_act",
        "hidden_size",
        "intermediate_size",
        "layer_norm_eps",
        "max_position_embeddings",
        "num_attention_heads",
        "num_hidden_layers",
        "vocab_size",
    )
    return {
        "_name_or_path": "openai/clip-vit-large-patch14",
        "architectures": ["CLIPTextModel"],
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "dropout": 0.0,
        "eos_token_id": 2,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "model_type": "clip_text_model",
        "pad_token_id": 1,
        "torch_dtype": "float32",
        "transformers_version": "4.21.0.dev0",
        **{key: getattr(config, key) for key in sizes},
    }


def publish(
    encoder: Any, folder: Path, change: Callable[[Tensors], Tensors] = retrained, **config: Any
) -> Path:
    """Write a folder as the authors of a robust encoder do.

    Args:
        encoder: The base's text encoder; not changed.
        folder: Where to write.
        change: What was done to its state dict.
        config: Entries of the config that are not those of the time.
    """
    folder.mkdir(parents=True)
    torch.save(change(published_tensors(encoder)), folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps({**published_config(encoder), **config}))
    return folder
