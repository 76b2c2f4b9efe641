"""One erasure from several that were trained apart, without their prompts (TRCE's stage 1, arXiv:2503.07389).

A closed form needs of its pairs only sums over their states, and sums add up (`closed_form`):

    X = D G⁻¹    with    D = D_1 + D_2 + ...        G = (G_1 + G_2 + ...) / n + η C + λ I

So what is solved here is what a joint run would have solved. To load all parts instead adds up factors,
X_1 + X_2 + ..., of which none knows the others' pairs: for dog, church, weapons and ink of the embedded
pipeline, that sum is as far from the joint X as X is from 0.

How exactly: the sums agree to rounding. States in float32 differ in their last bits (1e-8) with what else is
in the batch, and the condition of G makes more of that in X: 8e-5 of its size at a condition of 5e7 there,
but 2e-7 in what is heard of the mapped states, and 3e-10 in X with states in float64.

C is made anew, since what is retained depends on all that is erased. The parts must agree in everything that
the sums or the solution depend on. Where a joint run would have chosen other pairs, a warning says so: the
safe side of one part may be what another one erases (`compose_parts`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline
from pydantic import JsonValue

from diffusers_erasure.artifacts.artifact import Artifact, build_artifact
from diffusers_erasure.artifacts.canary import choose_prompts
from diffusers_erasure.artifacts.documents import read_document
from diffusers_erasure.artifacts.door import load_artifact
from diffusers_erasure.artifacts.edits import Edit
from diffusers_erasure.artifacts.fingerprint import fingerprint
from diffusers_erasure.artifacts.manifest import SettingRecord
from diffusers_erasure.diffusion import DiffusionComponents, text_projections
from diffusers_erasure.errors import BaseModelMismatchError, ConfigError
from diffusers_erasure.prompts import world_of

from .closed_form import solve
from .compose_parts import (
    COMPOSED_OF,
    SHARED,
    Leaf,
    Part,
    check_has,
    check_kind,
    check_parts,
    tell_differences,
)
from .config import Progress, ProgressCallback, silent
from .prompt_records import FURTHER_PROMPTS, RETAINED_PROMPTS, further_record, retained_record
from .registry import method
from .stored_statistics import MAX_STATISTICS_BYTES, STATISTICS_NAME, pack_statistics
from .student import StoredType
from .text_edit import TextEdit, cross_attention_edit, right_factor_edit
from .trce_mapping import retained_prompts, retained_statistics
from .trce_settings import TRCEConfig

_OWN = ("concept", "anchor", "concept_kind")
"""Settings that belong to one part, whatever the others have."""
_UNION = (COMPOSED_OF, FURTHER_PROMPTS, RETAINED_PROMPTS)


def load_part(
    source: str | Path,
    *,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Artifact:
    """Load an artifact with the statistics beside it.

    Args:
        source: Folder or Hub id of an artifact of TRCE's stage 1.
        token: Hub token.
        cache_dir: Where downloads are kept.
        local_files_only: Whether only the cache may be used.

    Raises:
        ArtifactError: The artifact or its statistics cannot be read, or are not what was saved.
        ConfigError: It is none of TRCE's stage 1, or was saved without statistics.
    """
    place: dict[str, Any] = {"token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
    artifact = load_artifact(source, **place)
    manifest = artifact.manifest
    check_kind(manifest)
    check_has(STATISTICS_NAME in manifest.attachments, manifest)
    data = read_document(
        source,
        STATISTICS_NAME,
        manifest=manifest,
        max_bytes=MAX_STATISTICS_BYTES,
        revision=artifact.commit,
        **place,
    )
    return replace(artifact, documents={STATISTICS_NAME: data})


def compose_trce(
    pipe: DiffusionPipeline,
    artifacts: Sequence[Artifact],
    *,
    retain_set: str = "",
    prior_file: str = "",
    artifact_dtype: StoredType = "float32",
    progress: ProgressCallback = silent,
) -> Artifact:
    """The erasure that a joint run of TRCE's stage 1 on the concepts of all parts would give.

    Args:
        pipe: Base pipeline of all parts; read, not changed.
        artifacts: At least two parts, as training or `load_part` gives them.
        retain_set: What stays, in place of what the parts recorded; needed where that was a user's own file.
        prior_file: File for the retain set's statistics, as in training.
        artifact_dtype: Precision in which the change is stored.
        progress: Called as it goes on.

    Raises:
        ConfigError: The parts cannot be composed; the message says which ones, and why.
        ArtifactError: Statistics are not what training wrote, or a part belongs to another base model.
        TrainingError: The Gram matrix is singular.
    """
    check_parts(artifacts, retain_set=retain_set)
    parts = tuple(map(Part, artifacts))
    settings = _settings(parts, retain_set)
    components = DiffusionComponents.from_pipeline(pipe, second_encoder=True)
    _check_base(parts, components)
    tell_differences(parts)
    config = _config(parts, settings, prior_file)
    own = retained_record(
        config.retain_set, retained_prompts(config, world=world_of(parts[0].manifest.base.id))
    )
    settings |= {} if own is None else {RETAINED_PROMPTS: own}
    found = _solve(parts, components, config, progress)
    progress(Progress("artifact", 0, 1))
    make = right_factor_edit if config.edit_form == "right_factor" else cross_attention_edit
    projections = text_projections(components.unet, text_width=components.text_width)
    edit: Edit = make(found.factor, projections, artifact_dtype)
    artifact = build_artifact(
        pipe,
        {"unet": edit},
        method="trce",
        method_version=method("trce").version,
        settings=settings,
        concepts=[record for part in parts for record in part.concepts],
        base=parts[0].manifest.base,
        seed=parts[0].manifest.seed,
        steps=0,
        canary_prompts=choose_prompts([one for part in parts for one in part.manifest.canary.prompts]),
    )
    progress(Progress("artifact", 1, 1))
    return artifact.with_documents({STATISTICS_NAME: pack_statistics(found.mapping, components)})


def _solve(
    parts: Sequence[Part], components: DiffusionComponents, config: TRCEConfig, progress: ProgressCallback
) -> TextEdit:
    """The sums of all parts, and what they give with the retain set."""
    mapping = reduce(add, (part.statistics(components) for part in parts))
    world = world_of(parts[0].manifest.base.id)
    prior = retained_statistics(components, config, world=world, progress=progress)
    found = TextEdit(solve(mapping, prior, config.penalties(prior)), mapping, prior)
    counted = ("pairs", "mapped states")
    numbers = {name: value for name, value in found.numbers.items() if name not in counted}
    progress(Progress("solve", 1, 1, numbers))
    return found


def _check_base(parts: Sequence[Part], components: DiffusionComponents) -> None:
    found = fingerprint(components.unet)
    for part in parts:
        expected = part.artifact.spec("unet").base_fingerprint
        if found != expected:
            raise BaseModelMismatchError(
                f"{part.name} was trained on a UNet of {part.manifest.base.id} with the fingerprint "
                f"{expected}; that of the pipeline at hand has {found}; give the base model of all parts, "
                f"without erasures and in the precision that they were trained in"
            )
    first = parts[0].manifest.base.id
    for part in parts:
        if world_of(part.manifest.base.id) != world_of(first):
            raise ConfigError(
                f"{parts[0].name} was trained with prompts for the base model {first!r}, {part.name} with "
                f"those for {part.manifest.base.id!r}; expected prompts of one kind; train both from a base "
                f"model of the same name"
            )


def _settings(parts: Sequence[Part], retain_set: str) -> dict[str, SettingRecord]:
    """What the manifest records: in what the parts agree; the rest stands under `composed_of`."""
    leaves = [leaf for part in parts for leaf in part.leaves]
    known, first = parts[0].manifest.settings, leaves[0].settings
    records = {
        name: record
        for name, record in known.items()
        if name in SHARED
        or (name not in (*_OWN, *_UNION) and all(_has(leaf, name, first.get(name)) for leaf in leaves))
    }
    if retain_set:
        records["retain_set"] = _changed(known.get("retain_set"), retain_set)
    apart = [_without(leaf, {*records, "concept"}).model_dump() for leaf in leaves]
    records["concept"] = _changed(known.get("concept"), [name for leaf in leaves for name in leaf.concepts])
    further = list(dict.fromkeys(prompt for part in parts for prompt in part.further_prompts))
    if further:
        records[FURTHER_PROMPTS] = further_record(further)
    records[COMPOSED_OF] = SettingRecord(
        value=apart, meaning="artifacts whose statistics were added, with the settings in which they differ"
    )
    return records


def _changed(record: SettingRecord | None, value: JsonValue) -> SettingRecord:
    """A setting with another value."""
    return SettingRecord(value=value, meaning="" if record is None else record.meaning)


def _has(leaf: Leaf, name: str, value: object) -> bool:
    return name in leaf.settings and bool(leaf.settings[name] == value)


def _without(leaf: Leaf, names: Collection[str]) -> Leaf:
    """A leaf without settings that stand elsewhere."""
    return leaf.model_copy(
        update={"settings": {name: value for name, value in leaf.settings.items() if name not in names}}
    )


def _config(parts: Sequence[Part], settings: Mapping[str, SettingRecord], prior_file: str) -> TRCEConfig:
    """Settings of the joint solution; what does not matter to it keeps its default."""
    values = {name: record.value for name, record in settings.items() if name not in _UNION}
    config = TRCEConfig.parse({**values, "prior_file": prior_file})
    erased = frozenset(word for part in parts for word in part.concepts.words)
    if config.concepts.words != erased:
        other = ", ".join(map(repr, sorted(config.concepts.words ^ erased)))
        raise ConfigError(
            f"the words {other} belong to the concepts in the artifacts or in this version's vocabulary, but "
            f"not in both; expected the same words, since they decide what is retained; train the parts again"
        )
    return config
