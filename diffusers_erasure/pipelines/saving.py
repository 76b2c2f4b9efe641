"""Saving an erased pipeline as a stock repository that is erased for everyone, completely or not at all."""

from __future__ import annotations

import glob
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffusers_erasure.artifacts.apply import ERASABLE, AppliedErasure
from diffusers_erasure.artifacts.tensors import added_names, unwrapped
from diffusers_erasure.artifacts.verify import ErasureState
from diffusers_erasure.durable import sweep, whole_folder
from diffusers_erasure.encoders.architecture import CONFIG_FILE
from diffusers_erasure.encoders.entry import combined
from diffusers_erasure.encoders.saving import save_encoder, stock_class_name
from diffusers_erasure.encoders.source import WEIGHTS_FILE
from diffusers_erasure.errors import ConfigError, ErasureNotActiveError, ErasureStateError

from .baked import BAKED_KEY, BakedRecord
from .guard import TEXT_ENCODERS, all_erasures, verify_all
from .index import INDEX_FILE
from .session import session_of

PACKAGE = "diffusers_erasure"
PLACE_KEY = "_name_or_path"
"""Key of diffusers and transformers for what something was loaded from."""
STALE_SECONDS = 3600
"""Age at which a draft beside the target is taken for that of a process that was killed."""


def save_pipeline(
    pipe: Any,
    directory: str | Path,
    save_stock: Callable[[Path], None],
    *,
    overwrite: bool,
    allow_unverified: bool,
    variant: str | None,
) -> None:
    """Write a pipeline's folder beside its place, complete it, and give it its name in one step.

    Args:
        pipe: The pipeline.
        directory: Folder to write.
        save_stock: Writes the stock files of the pipeline to the folder that it is given.
        overwrite: Whether a pipeline that is already there may be replaced.
        allow_unverified: Save a pipeline that is not verified; then nothing says that it is erased.
        variant: Name between the file's stem and ".safetensors".
    """
    target = Path(directory).expanduser().resolve()
    _check_target(target, overwrite=overwrite)
    _check_plain(pipe)
    record = _record_to_write(pipe, allow_unverified=allow_unverified)
    sweep(target.parent, glob.escape(target.name), older_than=STALE_SECONDS)
    with whole_folder(target) as draft:
        save_stock(draft)
        for path in draft.glob("*/*config.json"):
            _forget_place(path)
        erasures = () if record is None else tuple(erasure.applied() for erasure in record.erasures)
        _rewrite_encoders(pipe, draft, erasures, variant)
        if record is not None:
            _add_entry(draft / INDEX_FILE, record)


def stock_index(pipe: Any, text: str) -> str:
    """A pipeline's `model_index.json` under the class names of diffusers and transformers."""
    content = json.loads(text)
    content["_class_name"] = stock_class_name(pipe)
    content[PLACE_KEY] = session_of(pipe).base
    if not content[PLACE_KEY]:
        del content[PLACE_KEY]  # a folder of this machine is nobody's business
    for part, value in content.items():
        if isinstance(value, list) and value and str(value[0]).split(".")[0] == PACKAGE:
            content[part] = ["transformers", stock_class_name(getattr(pipe, part))]
    return json.dumps(content, indent=2, sort_keys=True) + "\n"


def _forget_place(path: Path) -> None:
    """Take out of a component's configuration where it was loaded from, which is a path of this machine."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(content, dict) and PLACE_KEY in content:
        del content[PLACE_KEY]
        path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _check_target(target: Path, *, overwrite: bool) -> None:
    if target.is_file():
        raise ConfigError(f"{target} is a file; expected a folder for the pipeline; choose another name")
    if not target.is_dir() or not any(target.iterdir()):
        return
    if not (target / INDEX_FILE).is_file():
        raise ConfigError(
            f"{target} holds files, but no pipeline; expected an empty or new folder, since saving replaces "
            "the whole folder; choose another one"
        )
    if not overwrite:
        raise ConfigError(
            f"{target} already holds a pipeline; expected a new folder, since files of two pipelines would "
            "mix; choose another one or pass overwrite=True"
        )


def _check_plain(pipe: Any) -> None:
    """Adapters would be saved beside weights under other names; nobody could load the result."""
    for part in ERASABLE:
        module = getattr(pipe, part, None)
        added = added_names(unwrapped(module)) if module is not None else []
        if added:
            raise ErasureStateError(
                f"{part} carries weights that are not its own (first: {added[0]}); expected a plain "
                "pipeline; call unload_lora_weights() (or unload_ip_adapter()) before saving"
            )


def _record_to_write(pipe: Any, *, allow_unverified: bool) -> BakedRecord | None:
    if not all_erasures(pipe):
        return None
    report = verify_all(pipe)
    if report.state is ErasureState.VERIFIED:
        return BakedRecord.of(pipe)
    if allow_unverified:
        return None
    raise ErasureNotActiveError(
        f"{report.message}; or pass allow_unverified=True to save it without the entry that says it is erased"
    )


def _rewrite_encoders(
    pipe: Any, draft: Path, erasures: tuple[AppliedErasure, ...], variant: str | None
) -> None:
    """Write the text encoders under the keys that every version of transformers reads."""
    for part in TEXT_ENCODERS:
        module = getattr(pipe, part, None)
        if module is None:
            continue
        folder = draft / part
        for path in folder.iterdir():
            if path.name != CONFIG_FILE:
                path.unlink()
        held = [erasure for erasure in erasures if part in erasure.components]
        save_encoder(unwrapped(module), folder, erasure=combined(held))
        if variant is not None:
            (folder / WEIGHTS_FILE).rename(folder / f"{Path(WEIGHTS_FILE).stem}.{variant}.safetensors")


def _add_entry(path: Path, record: BakedRecord) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    content[BAKED_KEY] = record.model_dump(mode="json")
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
