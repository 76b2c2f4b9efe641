"""Settings of a training run: one frozen model per method, from which everything else is made.

The command line, JSON, validation and the settings table of an artifact all come from a method's settings
class. Each field says what it means; where it is a symbol of a paper, which one. Flags carry the names that
diffusers' own training scripts use. The token to push with is the one secret: no dump, text, record or
error of the settings holds it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Self

from pydantic import Field

from diffusers_erasure.artifacts.manifest import SettingRecord
from diffusers_erasure.concepts import ConceptKind, ConceptSet, resolve_concepts
from diffusers_erasure.settings import Settings, setting


class RunSettings(Settings):
    """What every run is told: where its result goes, and the seed."""

    output_dir: Path | None = setting(
        None, "folder for the artifact; outputs/<concept>-<method> unless given", recorded=False
    )
    overwrite: bool = setting(False, "replace output_dir if it exists", recorded=False)
    seed: int = setting(0, "seed of everything that is drawn at random", recorded=False, ge=0)

    def records(self) -> dict[str, SettingRecord]:
        """Every setting that shapes the result, with its meaning, for the artifact's manifest."""
        values = self.model_dump(mode="json")
        return {
            name: SettingRecord(value=values[name], meaning=info.description or "")
            for name, info in type(self).model_fields.items()
            if not isinstance(info.json_schema_extra, dict) or info.json_schema_extra.get("recorded", True)
        }


TOKEN = "hub_token"


def without_token(values: Mapping[str, Any]) -> dict[str, Any]:
    """All values but the token."""
    return {name: value for name, value in values.items() if name != TOKEN}


class TrainingConfig(RunSettings):
    """What every method is told."""

    maps_to_anchor: ClassVar[bool] = True
    """Whether the method maps concepts to their anchors, and not merely away from themselves."""

    concept: tuple[str, ...] = Field(
        description="concept to erase: an object, style, identity or theme, in words", min_length=1
    )
    anchor: tuple[str, ...] = setting(
        (), "what a concept is mapped to: one for all or one for each; '' is the prompt without the concept"
    )
    concept_kind: ConceptKind | None = setting(
        None, "kind of the concepts that the embedded vocabulary does not know; object unless given"
    )
    pretrained_model_name_or_path: str = setting(
        "embedded", "base model: a folder, a Hub id, or 'embedded'", recorded=False
    )
    revision: str | None = setting(None, "branch, tag or commit of the base model on the Hub", recorded=False)
    cache_dir: Path | None = setting(None, "where downloads from the Hub are kept", recorded=False)
    local_files_only: bool = setting(False, "never ask the Hub", recorded=False)
    push_to_hub: bool = setting(False, "push the saved artifact to the Hub", recorded=False)
    hub_model_id: str | None = setting(
        None,
        "repository to push to, organisation/name; your account and the name of output_dir unless given",
        recorded=False,
    )
    hub_private_repo: bool = setting(
        False, "a new repository is private; an existing public one is refused", recorded=False
    )
    hub_token: str | None = setting(
        None,
        "token to push with; the one you are logged in with unless given, which nobody sees in a list of "
        "processes",
        recorded=False,
        repr=False,
        exclude=True,
    )

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Check values from JSON or a caller; the token goes around the checks, whose errors repeat values.

        Raises:
            ConfigError: A key is unknown, missing, or has a value that it cannot have.
        """
        return super().parse(without_token(values)).with_token(values.get(TOKEN))

    def with_token(self, token: str | None) -> Self:
        """The same settings with a token to push with, which shows in no dump and no text of them."""
        return self.model_copy(update={TOKEN: token})

    @classmethod
    def with_preset(cls, told: Mapping[str, Any]) -> type[Self]:
        """This class with the defaults of a preset, for methods that have presets.

        Args:
            told: What is known of the settings: the preset, the base model, the concepts and their kind.
        """
        del told
        return cls

    @property
    def stored_types(self) -> Mapping[str, str]:
        """Components that the run only reads and wants in another precision than float32, by name."""
        return {}

    @property
    def concepts(self) -> ConceptSet:
        """The concepts with their synonyms, anchors and kinds."""
        return resolve_concepts(self.concept, anchors=self.anchor, kind=self.concept_kind)


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        phase: What is being done.
        done: Steps of this phase that are done.
        total: Steps of this phase.
        values: Numbers worth showing or tracking.
    """

    phase: str
    done: int
    total: int
    values: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))


ProgressCallback = Callable[[Progress], None]


def silent(progress: Progress) -> None:
    """The callback of those who do not want to watch."""
    del progress
