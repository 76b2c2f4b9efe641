"""Pushing a pipeline that was saved erased: a stock repository that is erased for everyone.

Only a pipeline that loads and verifies is pushed: its folder is opened as a stranger would open it, and every
component that it seals is compared, before anything leaves this machine.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers_erasure.artifacts.push_plan import (
    PushOptions,
    PushPlan,
    check_repo_id,
    make_plan,
    own_card,
    rendered_card,
)
from diffusers_erasure.artifacts.safebytes import parse_header, read_bytes
from diffusers_erasure.artifacts.upload import publish
from diffusers_erasure.artifacts.weight_files import variant_of
from diffusers_erasure.encoders.publishing import check_push as encoder_check
from diffusers_erasure.encoders.source import EncoderSource
from diffusers_erasure.errors import ConfigError, ErasureRequiredError, PublishError

from .baked import read_baked
from .guard import all_erasures
from .index import INDEX_FILE, PipelineIndex, read_index, stock_class

SAVING = ("variant", "max_shard_size")
_PLAIN = re.compile(r"[\w.\-]+\.(json|txt|model|safetensors)")


def push_pipeline(pipe: Any, repo_id: str, **options: Any) -> str:
    """Save, verify and push a pipeline in one commit; returns the commit's address.

    Args:
        pipe: One of our pipelines.
        repo_id: "organisation/name"; made if it does not exist.
        options: `variant` and `max_shard_size` as for saving; the rest see
            `diffusers_erasure.artifacts.push_plan.PushOptions`.

    Raises:
        ConfigError: `repo_id` or an option is none.
        ErasureRequiredError: Nothing is erased in it.
        ErasureNotActiveError: It is not verified.
        PublishError: The Hub did not take it.
    """
    saving = {name: options.pop(name) for name in SAVING if name in options}
    saving["safe_serialization"] = options.pop("safe_serialization", True)
    chosen = check_push(pipe, repo_id, options)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "pipeline"
        pipe.save_pretrained(folder, **saving)
        return publish(plan_pipeline(folder, repo_id, chosen), chosen).url


def check_push(pipe: Any, repo_id: str | None, options: Mapping[str, Any]) -> PushOptions:
    """The options of a push, checked before anything is saved for it.

    Args:
        pipe: One of our pipelines.
        repo_id: Where to push; None is refused.
        options: Those of `PushOptions`.

    Raises:
        ConfigError: `repo_id` or an option is none.
        ErasureRequiredError: Nothing is erased in it.
    """
    chosen = encoder_check(repo_id, options)
    _refuse_subfolder(chosen)
    if not all_erasures(pipe):
        raise ErasureRequiredError(
            f"this {type(pipe).__name__} has no erasure, and only erased pipelines are pushed from here; "
            "expected one; load it with pipe.load_erasure(...), or push the base with its stock class"
        )
    return chosen


def plan_pipeline(folder: Path, repo_id: str, options: PushOptions) -> PushPlan:
    """What pushing a saved pipeline uploads; opens it to see that it is erased as it says.

    Args:
        folder: What `save_pretrained` of an erased pipeline wrote.
        repo_id: "organisation/name".
        options: Where to.

    Raises:
        PublishError: Its index does not say that it is erased.
        ArtifactError: It is not whole, or its weights are not those that were saved.
    """
    check_repo_id(repo_id)
    _refuse_subfolder(options)
    index = _index(folder)
    names = [INDEX_FILE, *_component_files(folder, index)]
    card = own_card(folder) or rendered_card(
        "render_pipeline_card", dict(index.content), repo_id=repo_id, variant=variant_of(names) or ""
    )
    plan = make_plan(folder, names, repo_id, options, kind="pipeline", card=card)
    for name in names:
        if name.endswith(".safetensors"):
            parse_header(read_bytes(folder / name, origin=str(folder / name)), origin=str(folder / name))
    _open(folder, index.class_name, variant_of(names))
    return plan


def _refuse_subfolder(options: PushOptions) -> None:
    if options.subfolder:
        raise ConfigError(
            f"subfolder={options.subfolder!r} for a pipeline, which diffusers loads from the root of a "
            "repository only; expected none; push it to a repository of its own"
        )


def _index(folder: Path) -> PipelineIndex:
    index = read_index(EncoderSource.find(str(folder), "", None))
    if index is None or read_baked(index.content, where=index.where) is None:
        raise PublishError(
            f"nothing in {folder} says that this pipeline is erased; expected the folder that "
            "save_pretrained of an erased pipeline wrote; save an erased pipeline, or push the artifact"
        )
    return index


def _component_files(folder: Path, index: PipelineIndex) -> list[str]:
    """Files of the components that the index names: configurations, vocabularies and safetensors."""
    parts = [name for name, value in index.content.items() if isinstance(value, list) and any(value)]
    found = []
    for part in sorted(parts):
        place = folder / part
        if not place.is_dir():
            raise PublishError(
                f"{folder} has no folder {part}, which its index names; expected a whole pipeline; save it "
                "again"
            )
        found += [f"{part}/{path.name}" for path in sorted(place.iterdir()) if _PLAIN.fullmatch(path.name)]
    return found


def _open(folder: Path, class_name: str, variant: str | None) -> None:
    """Load it as the class that strangers use; raises if it is not what was saved."""
    from . import ErasedStableDiffusionPipeline, ErasedStableDiffusionXLPipeline

    classes = (ErasedStableDiffusionPipeline, ErasedStableDiffusionXLPipeline)
    opens = next(cls for cls in classes if issubclass(cls, stock_class(class_name)))
    opens.from_pretrained(folder, variant=variant)
