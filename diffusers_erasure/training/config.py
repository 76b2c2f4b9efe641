"""Settings of a training run: one frozen model per method, from which everything else is made.

The command line, JSON, validation and the settings table of an artifact all come from a method's settings
class. Each field says what it means; where it is a symbol of a paper, which one. Flags carry the names that
diffusers' own training scripts use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from diffusers_erasure.artifacts.manifest import SettingRecord
from diffusers_erasure.concepts import ConceptKind, ConceptSet, resolve_concepts
from diffusers_erasure.errors import ConfigError

Value = TypeVar("Value")


def setting(
    default: Value,
    description: str,
    *,
    symbol: str | None = None,
    source: str | None = None,
    recorded: bool = True,
    **bounds: Any,
) -> Value:
    """One field of a settings class.

    Args:
        default: Value unless given.
        description: What it means, in one line; it becomes the flag's help and the artifact's record.
        symbol: The paper's symbol for it.
        source: Where the default comes from.
        recorded: Whether an artifact records it; where files lie is nobody's business.
        bounds: `ge`, `le`, `gt`, `lt`, `min_length`: limits that pydantic checks.
    """
    notes: dict[str, Any] = {"symbol": symbol, "source": source, "recorded": recorded}
    full = f"{description} ({symbol} in the paper)" if symbol else description
    return cast(Value, Field(default=default, description=full, json_schema_extra=notes, **bounds))


class RunSettings(BaseModel):
    """What every run is told: where its result goes, and the seed."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    output_dir: Path | None = setting(
        None, "folder for the artifact; outputs/<concept>-<method> unless given", recorded=False
    )
    overwrite: bool = setting(False, "replace output_dir if it exists", recorded=False)
    seed: int = setting(0, "seed of everything that is drawn at random", recorded=False, ge=0)

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Check values from JSON or a caller.

        Raises:
            ConfigError: A key is unknown, missing, or has a value that it cannot have.
        """
        known = tuple(cls.model_fields)
        unknown = [key for key in values if key not in known]
        if unknown:
            raise ConfigError(unknown_setting(unknown[0], known))
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            faults = "; ".join(
                f"{'.'.join(map(str, fault['loc'])) or 'settings'}: {fault['msg']}, found {fault['input']!r}"
                for fault in error.errors()
            )
            raise ConfigError(
                f"settings that cannot be used: {faults}; see the method's --help for what each one takes"
            ) from error

    def records(self) -> dict[str, SettingRecord]:
        """Every setting that shapes the result, with its meaning, for the artifact's manifest."""
        values = self.model_dump(mode="json")
        return {
            name: SettingRecord(value=values[name], meaning=info.description or "")
            for name, info in type(self).model_fields.items()
            if not isinstance(info.json_schema_extra, dict) or info.json_schema_extra.get("recorded", True)
        }


class TrainingConfig(RunSettings):
    """What every method is told."""

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

    @classmethod
    def with_preset(cls, preset: str | None, base: str | None) -> type[Self]:
        """This class with the defaults of a preset, for methods that have presets.

        Args:
            preset: The preset's name, if one was asked for.
            base: The base model, if one was named.
        """
        del preset, base
        return cls

    @property
    def concepts(self) -> ConceptSet:
        """The concepts with their synonyms, anchors and kinds."""
        return resolve_concepts(self.concept, anchors=self.anchor, kind=self.concept_kind)


def unknown_setting(name: str, known: tuple[str, ...]) -> str:
    """What to say about a setting that does not exist: name it, list the known ones, propose the nearest."""
    near = get_close_matches(name.lstrip("-").replace("-", "_"), known, n=1)
    advice = f"did you mean {near[0]!r}?" if near else "leave it out"
    return f"there is no setting {name!r}; known settings are {', '.join(sorted(known))}; {advice}"


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
