"""Tensors of a text encoder file: from and to the key layout that every reader understands.

Two layouts are in use. Files of transformers 4 (all published SD encoders) prefix every key of the text
network with ``text_model.``; a `CLIPTextModel` of transformers 5.6 and later names its own parameters
without it. Read by the wrong side, a file loads as *random* weights with only a log line. So both are read
here, the prefixed one is always written, and a file whose keys do not fit completely is an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from diffusers_erasure.errors import ArtifactMismatchError

PREFIX = "text_model."
PROJECTION_KEY = "text_projection.weight"
POSITION_IDS = "embeddings.position_ids"
POSITION_TABLE = "position_embedding.weight"
FLOAT_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def stock_state_dict(encoder: nn.Module) -> dict[str, Tensor]:
    """State dict of a CLIP text encoder under the keys of published files (``text_model.*``).

    The tensors are the encoder's own, detached, not copied.
    """
    return {_stock_key(key): value.detach() for key, value in encoder.state_dict().items()}


def match_to_module(tensors: Mapping[str, Tensor], module: nn.Module, *, where: str) -> dict[str, Tensor]:
    """Rename a file's tensors to the module's keys, and check that they fit it completely.

    Args:
        tensors: What the file holds, in either layout.
        module: Encoder that will take them (may be on the meta device).
        where: File name for messages.

    Returns:
        One tensor for every key of the module's state dict, and nothing else.

    Raises:
        ArtifactMismatchError: A key is missing, unexpected or there twice; a shape or dtype differs; a value
            is not finite; a weight is all zero.
    """
    expected = {_stock_key(key): key for key in module.state_dict()}
    found = _by_stock_key(tensors, where=where)
    _drop_position_ids(found, module, where=where)
    _check_keys(expected, found, where=where)
    shapes = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    result = {}
    for stock_key, key in expected.items():
        tensor = found[stock_key]
        if tuple(tensor.shape) != shapes[key]:
            raise ArtifactMismatchError(
                f"{where}: {stock_key} has shape {tuple(tensor.shape)}, but its config.json describes "
                f"{shapes[key]}; config and weights are of different models; download both again"
            )
        _check_values(stock_key, tensor, where=where)
        result[key] = tensor
    return result


def common_dtype(tensors: Iterable[Tensor]) -> torch.dtype:
    """The dtype that all tensors share, or float32 where they differ."""
    dtypes = {tensor.dtype for tensor in tensors}
    return dtypes.pop() if len(dtypes) == 1 else torch.float32


def _stock_key(key: str) -> str:
    return key if key.startswith(PREFIX) or key == PROJECTION_KEY else PREFIX + key


def _by_stock_key(tensors: Mapping[str, Tensor], *, where: str) -> dict[str, Tensor]:
    """Tensors under the published keys; a file is wholly flat or wholly prefixed, or it is refused."""
    text_keys = [key for key in tensors if key != PROJECTION_KEY]
    prefixed = sum(key.startswith(PREFIX) for key in text_keys)
    if prefixed not in (0, len(text_keys)):
        raise ArtifactMismatchError(
            f"{where}: {prefixed} of {len(text_keys)} keys start with {PREFIX!r}; a file has this prefix on "
            "all keys or on none; it is not one text encoder: download or save it again"
        )
    return {_stock_key(key): tensor for key, tensor in tensors.items()}


def _drop_position_ids(found: dict[str, Tensor], module: nn.Module, *, where: str) -> None:
    """Old files store the counter 0, 1, 2, ... as a tensor; no weight, but it has to be that counter."""
    positions = found.pop(PREFIX + POSITION_IDS, None)
    if positions is None:
        return
    table = next(value for key, value in module.state_dict().items() if key.endswith(POSITION_TABLE))
    counter = torch.arange(table.shape[0], dtype=torch.float64)
    if not torch.equal(positions.double().reshape(-1), counter):
        raise ArtifactMismatchError(
            f"{where}: {POSITION_IDS} is not 0 to {table.shape[0] - 1}; a CLIP text encoder counts its "
            "positions in order; download the file again"
        )


def _check_keys(expected: Mapping[str, str], found: Mapping[str, Tensor], *, where: str) -> None:
    missing = sorted(set(expected) - set(found))
    unexpected = sorted(set(found) - set(expected))
    faults = [
        f"{len(keys)} {word} (first: {', '.join(repr(key[:80]) for key in keys[:5])})"
        for word, keys in (("missing", missing), ("unexpected", unexpected))
        if keys
    ]
    if faults:
        raise ArtifactMismatchError(
            f"{where}: of {len(expected)} tensors, {' and '.join(faults)}; all and only the tensors of the "
            "encoder in config.json are accepted, under stock names; save the encoder again with "
            "save_pretrained"
        )


def _check_values(name: str, tensor: Tensor, *, where: str) -> None:
    if tensor.dtype not in FLOAT_DTYPES:
        raise ArtifactMismatchError(
            f"{where}: {name} has dtype {tensor.dtype}; a text encoder's weights are floating point; save it "
            "again"
        )
    if not bool(torch.isfinite(tensor).all()):
        raise ArtifactMismatchError(
            f"{where}: {name} has values that are not finite; such an encoder draws black pictures, which is "
            "not an erasure; train or download it again"
        )
    if (tensor.ndim > 1 or name.endswith("norm.weight")) and not bool(tensor.any()):
        raise ArtifactMismatchError(
            f"{where}: {name} is all zero; a trained weight is not; the file is damaged: download it again"
        )
