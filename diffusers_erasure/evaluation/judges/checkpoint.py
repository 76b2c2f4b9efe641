"""Load a model of somebody else's as a judge: whole, from safetensors, from one commit, or not at all.

transformers fills weights that a checkpoint lacks with random numbers and says so in a log. A judge like that
would find nothing, and every erasure would look perfect. So missing, surplus and misshapen weights are
refused here, as are values that are not finite. Pickled weights and code from the repository are never read.
Pictures are prepared by the PIL version of the model's processor, which needs no torchvision, so that a
picture is judged alike wherever it is judged.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusers_erasure.artifacts.fingerprint import fingerprint
from diffusers_erasure.artifacts.hub import HubSource, is_repo_id
from diffusers_erasure.errors import EvaluationError

logger = logging.getLogger(__name__)

HARMLESS = ("position_ids",)
"""Surplus entries of old checkpoints that are no weights: a list of 0, 1, 2, ..."""


@dataclass(frozen=True)
class Checkpoint:
    """A model with everything that it needs to look at pictures.

    Attributes:
        model: The network, in evaluation mode, float32.
        processor: Makes pictures what the network takes.
        tokenizer: Makes words what it takes, for models that read.
        version: The Hub's commit, or "local".
        sha256: Digest of its weights.
    """

    model: Any
    processor: Any
    tokenizer: Any
    version: str
    sha256: str

    def pixels(self, images: Tensor) -> Tensor:
        """Pictures `(pictures, 3, height, width)` uint8 as `(pictures, 3, h, w)` floats for the network."""
        arrays = list(images.permute(0, 2, 3, 1).contiguous().cpu().numpy())
        prepared = self.processor(images=arrays, return_tensors="pt", input_data_format="channels_last")
        pixels: Tensor = prepared["pixel_values"].to(self.model.device)
        return pixels


def load_checkpoint(
    auto_class: Any,
    location: str,
    *,
    revision: str | None = None,
    device: str = "cpu",
    tokenizer: bool = False,
) -> Checkpoint:
    """Load model and processor from a folder or from one commit of a Hub repository.

    Args:
        auto_class: The `transformers` class whose `from_pretrained` makes the model.
        location: Folder or Hub id.
        revision: Branch, tag or commit of a Hub id; it is resolved to a commit once.
        device: Where the network is to be.
        tokenizer: Whether the model reads words too.

    Raises:
        EvaluationError: There is no such model, it is not stored as safetensors, or its weights do not fit.
        ArtifactNotFoundError: The Hub has no such repository or revision, or did not answer.
    """
    from transformers import AutoImageProcessor, AutoTokenizer

    where, commit = _resolve(location, revision)
    options: dict[str, Any] = {"revision": commit} if commit else {"local_files_only": True}
    try:
        model, report = auto_class.from_pretrained(
            where,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
            **options,
        )
        processors: Any = AutoImageProcessor
        processor = processors.from_pretrained(where, backend="pil", trust_remote_code=False, **options)
        reader = (
            AutoTokenizer.from_pretrained(where, trust_remote_code=False, **options) if tokenizer else None
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise EvaluationError(
            f"{location} cannot be loaded as a judge ({type(error).__name__}: {str(error)[:400]}); expected "
            f"a model that {auto_class.__name__} knows, with safetensors weights and its image processor; "
            "save it again with save_pretrained, or name another one"
        ) from error
    _check_weights(location, model, report)
    model = model.eval().requires_grad_(False).to(device)
    return Checkpoint(model, processor, reader, commit or "local", fingerprint(model))


def _resolve(location: str, revision: str | None) -> tuple[str, str | None]:
    folder = Path(location).expanduser()
    if folder.is_dir():
        if not list(folder.glob("*.safetensors")):
            raise EvaluationError(
                f"the folder {folder} has no safetensors file; expected a model saved by save_pretrained "
                "(pickled weights can run anybody's code and are not read); save it as safetensors"
            )
        return str(folder), None
    if not is_repo_id(location):
        raise EvaluationError(
            f"{location!r} is neither a folder here nor a Hub id; expected one of them for a judge's "
            "weights; check the path"
        )
    source = HubSource(location, revision=revision)
    source.path("config.json")
    if source.commit is None:
        raise EvaluationError(
            f"{location} at {revision or 'main'} could not be resolved to a commit; expected one, so that "
            "all files are of one version; name a commit as its revision"
        )
    return location, source.commit


def _check_weights(location: str, model: Any, report: Any) -> None:
    surplus = [key for key in report["unexpected_keys"] if not str(key).endswith(HARMLESS)]
    for what, keys in (
        ("lacks", report["missing_keys"]),
        ("has surplus", surplus),
        ("has misshapen", report["mismatched_keys"]),
    ):
        if keys:
            named = ", ".join(sorted(map(str, keys))[:5])
            raise EvaluationError(
                f"{location} {what} weights ({len(keys)}: {named}); expected exactly those of "
                f"{type(model).__name__}, or the judge would answer at random; use a model that was trained "
                "for this"
            )
    bad = [name for name, weight in model.named_parameters() if not bool(weight.isfinite().all())]
    if bad:
        raise EvaluationError(
            f"{location} has weights that are not finite ({', '.join(bad[:5])}); expected numbers; get "
            "another copy of the model"
        )
