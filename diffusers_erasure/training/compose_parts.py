"""The parts of a composed erasure: what is read of them, and whether they go together (`compose`)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

from pydantic import BaseModel, ConfigDict, JsonValue, TypeAdapter, ValidationError

from diffusers_erasure.artifacts.artifact import Artifact
from diffusers_erasure.artifacts.manifest import Manifest
from diffusers_erasure.concepts import Concept, ConceptSet
from diffusers_erasure.diffusion import DiffusionComponents
from diffusers_erasure.errors import ArtifactFormatError, ConfigError
from diffusers_erasure.prompts import RETAIN_SETS, tag_pairs

from .closed_form import MappingStatistics
from .prompt_records import FURTHER_PROMPTS, RETAINED_PROMPTS
from .stored_statistics import STATISTICS_NAME, unpack_statistics

logger = logging.getLogger(__name__)

COMPOSED_OF = "composed_of"
SHARED = (
    *("sot_weight", "eot_weight", "padding_weight", "keyword_weight", "keyword_target"),
    *("preserve_scale", "ridge", "retain_set", "retain_exclude", "max_retain_prompts", "deviations"),
)
"""Settings in which all parts must agree."""


class Leaf(BaseModel):
    """One trained artifact among those that an artifact is composed of."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    digest: str
    concepts: list[str]
    settings: dict[str, JsonValue]


_LEAVES = TypeAdapter(list[Leaf])


@dataclass(frozen=True)
class Part:
    """An artifact that is composed with others."""

    artifact: Artifact

    @property
    def manifest(self) -> Manifest:
        """What it says of itself."""
        return self.artifact.manifest

    @cached_property
    def concepts(self) -> ConceptSet:
        """What it erases, as it was when it was trained."""
        return ConceptSet(concepts=tuple(Concept(**record.model_dump()) for record in self.manifest.concepts))

    @cached_property
    def name(self) -> str:
        """The part in messages."""
        return _name(self.manifest)

    def setting(self, name: str) -> JsonValue:
        """The recorded value of a setting; None where it was not recorded."""
        record = self.manifest.settings.get(name)
        return None if record is None else record.value

    def statistics(self, components: DiffusionComponents) -> MappingStatistics:
        """What it maps."""
        data = self.artifact.documents.get(STATISTICS_NAME)
        check_has(data is not None, self.manifest)
        return unpack_statistics(data or b"", components, origin=f"the statistics of {self.name}")

    @property
    def further_prompts(self) -> tuple[str, ...]:
        """Prompts that it maps besides the tables' own."""
        value = self.setting(FURTHER_PROMPTS)
        return tuple(map(str, value)) if isinstance(value, list) else ()

    @cached_property
    def leaves(self) -> tuple[Leaf, ...]:
        """What it was composed of, each with all its settings; or itself."""
        values = {
            name: record.value
            for name, record in self.manifest.settings.items()
            if name not in (COMPOSED_OF, FURTHER_PROMPTS, RETAINED_PROMPTS)
        }
        composed = self.setting(COMPOSED_OF)
        if composed is None:
            names = list(self.manifest.concept_names)
            return (Leaf(digest=self.artifact.digest, concepts=names, settings=values),)
        try:
            leaves = _LEAVES.validate_python(composed)
        except ValidationError as error:
            raise ArtifactFormatError(
                f"{self.name} records under {COMPOSED_OF} what cannot be read ({error.errors()[0]['msg']}); "
                f"expected digests, concepts and settings; compose it again from its parts"
            ) from error
        return tuple(leaf.model_copy(update={"settings": {**values, **leaf.settings}}) for leaf in leaves)


def check_parts(artifacts: Sequence[Artifact], *, retain_set: str = "") -> None:
    """Refuse what cannot be composed, as far as it can be told without the base model.

    Raises:
        ConfigError: There are too few parts, or one is of another kind, or two do not go together.
    """
    parts = tuple(map(Part, artifacts))
    if len(parts) < 2:
        raise ConfigError(
            f"{len(parts)} artifacts are given to compose; expected at least two; name the others too"
        )
    for part in parts:
        check_kind(part.manifest)
        check_has(STATISTICS_NAME in part.artifact.documents, part.manifest)
    for one, other in combinations(parts, 2):
        _check_distinct(one, other)
    for part in parts[1:]:
        _check_agreed(parts[0], part, given=("retain_set",) if retain_set else ())
    _check_retain_set(retain_set or parts[0].setting("retain_set"), told=bool(retain_set))


def _name(manifest: Manifest) -> str:
    return f"the erasure of {', '.join(manifest.concept_names)} ({manifest.digest[:8]})"


def check_kind(manifest: Manifest) -> None:
    """Refuse what is not stage 1 of TRCE alone."""
    record = manifest.settings.get("stages")
    stages = None if record is None else record.value
    if manifest.method != "trce" or stages != "1" or set(manifest.components) != {"unet"}:
        done = f"stages {stages} of trce" if manifest.method == "trce" else f"the method {manifest.method}"
        raise ConfigError(
            f"{_name(manifest)} was made by {done}; only sums of TRCE's stage 1 add up; train it with trce "
            f"--stages 1, or load the artifacts one beside the other"
        )


def check_has(found: bool, manifest: Manifest) -> None:
    """Refuse a part whose statistics were not found."""
    if not found:
        raise ConfigError(
            f"{_name(manifest)} has no statistics at hand; composing needs {STATISTICS_NAME} beside the "
            f"artifact; train it with save_statistics, and load it with its statistics"
        )


def _check_distinct(one: Part, other: Part) -> None:
    both = (_names(one) & other.concepts.words) | (_names(other) & one.concepts.words)
    if both:
        raise ConfigError(
            f"{one.name} and {other.name} both erase {', '.join(map(repr, sorted(both)))}; each concept is "
            f"expected in one part, or it would count twice; leave one of the two out"
        )


def _names(part: Part) -> frozenset[str]:
    """Names of everything that a part erases, without synonyms."""
    return frozenset(one.name.casefold() for concept in part.concepts for one in concept.walk())


def _check_agreed(one: Part, other: Part, *, given: Sequence[str]) -> None:
    for name in SHARED:
        first, second = one.setting(name), other.setting(name)
        if first != second and name not in given:
            raise ConfigError(
                f"{one.name} was trained with {name} {first!r}, {other.name} with {second!r}; expected the "
                f"same, since all is solved at once; train one of them again with the other's {name}"
            )


def _check_retain_set(name: object, *, told: bool) -> None:
    if not told and name not in RETAIN_SETS:
        raise ConfigError(
            f"the parts were trained with the retain set {name!r}, a file of a user; expected it here again, "
            f"since an artifact records its path, not its prompts; give it as retain_set"
        )


def tell_differences(parts: Sequence[Part]) -> None:
    """Warn of pairs that a joint run would have chosen otherwise."""
    for one, other in combinations(parts, 2):
        for part, erasing in ((one, other), (other, one)):
            _tell_anchors(part, erasing)
        twice = set(one.further_prompts) & set(other.further_prompts)
        if twice:
            logger.warning(
                "%s and %s both map %r and %d prompts more, which now count twice; a joint run counts each "
                "once; train the two together if that matters",
                *(one.name, other.name, min(twice), len(twice) - 1),
            )
    _tell_tags([part for part in parts if any(leaf.settings.get("use_tags") for leaf in part.leaves)])


def _tell_tags(parts: Sequence[Part]) -> None:
    """Warn of lists of tags whose safe side depends on what else is erased."""
    if len(parts) < 2:
        return
    union = ConceptSet(concepts=tuple(concept for part in parts for concept in part.concepts))
    apart = {pair for part in parts for pair in tag_pairs(part.concepts)} - set(tag_pairs(union))
    if apart:
        logger.warning(
            "%d lists of tags, such as %r, were mapped to what a joint run would not map them to; expected "
            "concepts that share no tags; train them together if that matters",
            len(apart),
            min(pair.source for pair in apart),
        )


def _tell_anchors(part: Part, erasing: Part) -> None:
    """Warn of concepts that are mapped to what another part erases."""
    bad = [
        f"{one.name!r} to {one.anchor!r}"
        for concept in part.concepts
        for one in concept.walk()
        if one.anchor.casefold() in erasing.concepts.words
    ]
    if bad:
        logger.warning(
            "%s maps %s, which %s erases; a joint run would have chosen another anchor; train one of the two "
            "again with an anchor that stays",
            *(part.name, ", ".join(bad), erasing.name),
        )
