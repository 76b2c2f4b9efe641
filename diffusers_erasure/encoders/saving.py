"""Writing a text encoder's folder so that every reader opens it."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from diffusers_erasure.artifacts.apply import AppliedErasure
from diffusers_erasure.artifacts.record import record_of
from diffusers_erasure.durable import whole_file, whole_folder
from diffusers_erasure.errors import ArtifactError, ErasureNotActiveError, ErasureStateError

from .architecture import CONFIG_FILE, architecture_digest
from .checkpoint import stock_state_dict
from .entry import ENTRY_KEY, EncoderErasure, combined, seal_entry
from .seal import SealRecord, weights_fault
from .source import WEIGHTS_FILE

STOCK_LIBRARIES = ("transformers", "diffusers")


def save_encoder(encoder: torch.nn.Module, directory: str | Path, *, erasure: EncoderErasure | None) -> Path:
    """Write `config.json` and `model.safetensors` so that a stock class of any version reads them.

    A new folder appears whole. One that is there may hold other files (a card, what else lies in a pipeline's
    folder) or be a place that cannot be exchanged (a mount point, the working directory), so that there each
    file is replaced by itself, once both are written. A stop between the two leaves a pair whose fingerprint
    does not agree, which loading refuses.

    Args:
        encoder: CLIP text encoder without adapters.
        directory: Folder to write.
        erasure: What was erased; None writes no ``erasure`` entry.
    """
    _check_savable(encoder)
    _check_unchanged(encoder, erasure)
    target = Path(directory).expanduser()
    if target.is_file():
        raise ArtifactError(f"{target} is a file; a text encoder is a folder; give another path")
    tensors = {key: value.cpu().contiguous() for key, value in stock_state_dict(encoder).items()}
    config = json.dumps(encoder_config(encoder, erasure=erasure), indent=2, sort_keys=True) + "\n"
    with ExitStack() as stack:
        if target.exists():
            places = [stack.enter_context(whole_file(target / name)) for name in (CONFIG_FILE, WEIGHTS_FILE)]
        else:
            folder = stack.enter_context(whole_folder(target))
            places = [folder / CONFIG_FILE, folder / WEIGHTS_FILE]
        places[0].write_text(config, encoding="utf-8")
        save_file(tensors, places[1], metadata={"format": "pt"})
    return target


def described_erasure(encoder: torch.nn.Module, own: EncoderErasure | None) -> EncoderErasure | None:
    """What the encoder's weights are known to hold: its own erasure and those that were put on top.

    Left out is what was loaded unverified, which nobody knows, and what stands at scale 0, which changes
    nothing.

    Raises:
        ErasureNotActiveError: All that was put on it stands at scale 0, so that it is the base.
    """
    known = own if own is not None and own.verified else None
    record = record_of(encoder)
    if record is None:
        return known
    loaded = [
        AppliedErasure(
            name=applied.name,
            method=applied.artifact.manifest.method,
            concepts=applied.artifact.manifest.concept_names,
            scale=applied.scale,
            digest=applied.artifact.digest,
            transfer=applied.transfer,
            components=(record.component,),
        )
        for applied in record.erasures
        if applied.scale != 0
    ]
    if known is None and not loaded:
        raise ErasureNotActiveError(
            f"the encoder's only erasures ({', '.join(record.names)}) are at scale 0, so its weights are "
            "those of the base; expected another scale, or none of them; call set_erasure_scale(pipe, name, "
            "1.0), or unload_erasure(pipe) to save the base"
        )
    return combined([*([known.applied("")] if known is not None else []), *loaded])


def stock_class_name(module: object) -> str:
    """Name of the nearest class of transformers or diffusers among a module's classes."""
    return next(
        cls.__name__ for cls in type(module).__mro__ if cls.__module__.split(".")[0] in STOCK_LIBRARIES
    )


def encoder_config(encoder: torch.nn.Module, *, erasure: EncoderErasure | None) -> dict[str, Any]:
    """The `config.json` of an encoder under its stock name, with the ``erasure`` entry where there is one."""
    config: dict[str, Any] = dict(encoder.config.to_diff_dict())  # type: ignore[operator, union-attr]
    for key in ("_name_or_path", "_commit_hash", "torch_dtype", ENTRY_KEY):
        config.pop(key, None)
    config["architectures"] = [stock_class_name(encoder)]
    config["dtype"] = str(next(encoder.parameters()).dtype).removeprefix("torch.")
    if erasure is not None:
        config[ENTRY_KEY] = seal_entry(
            erasure,
            weights=SealRecord.of(encoder),
            architecture=architecture_digest(encoder.config),  # type: ignore[arg-type]
        )
    return config


def _check_savable(encoder: torch.nn.Module) -> None:
    adapted = [key for key in encoder.state_dict() if ".lora_" in key or ".base_layer." in key]
    if adapted:
        raise ErasureStateError(
            f"the encoder carries an adapter ({adapted[0]!r} and {len(adapted) - 1} more tensors); only "
            "plain weights are saved; call unload_lora_weights() on the pipeline first (after fuse_lora() to "
            "keep its effect)"
        )
    broken = [key for key, value in encoder.state_dict().items() if not bool(torch.isfinite(value).all())]
    if broken:
        raise ErasureStateError(
            f"{len(broken)} tensors of the encoder have values that are not finite (first: {broken[0]!r}); "
            "it would draw black pictures; train it again"
        )


def _check_unchanged(encoder: torch.nn.Module, erasure: EncoderErasure | None) -> None:
    fault = None if erasure is None else weights_fault(encoder)
    if erasure is not None and fault is not None:
        raise ErasureNotActiveError(
            f"the encoder was changed since it was loaded or made: {fault}; saving it as erased of "
            f"{', '.join(erasure.concepts) or 'its concepts'} would not be true; state the erasure anew with "
            "RobustEncoder.from_encoder(encoder, erasure=...)"
        )
