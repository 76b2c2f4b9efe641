"""What is to be erased: a concept with its other words, its anchor and its kind.

    Concept      one target; a theme holds further concepts as `members`
    ConceptSet   what one erasure erases: at least one concept, no name twice
    resolve_concepts   from the names that a user types to a `ConceptSet`

Names that the embedded pipeline's vocabulary knows get its synonyms and anchors; every other name is a plain
concept, which any Stable Diffusion model may understand.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol, Self, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from diffusers_erasure.errors import ConfigError


class ConceptKind(StrEnum):
    """What sort of concept it is; it decides how prompts speak of it."""

    object = "object"
    style = "style"
    identity = "identity"
    theme = "theme"


class _Checked(BaseModel):
    """A frozen model whose faults are errors of this package."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            faults = [_fault(fault) for fault in error.errors()]
            raise ConfigError("; ".join(dict.fromkeys(faults))) from error


class Concept(_Checked):
    """One concept to erase."""

    name: str = Field(description="the concept's own name, as a prompt would say it")
    kind: ConceptKind = Field(default=ConceptKind.object, description="object, style, identity or theme")
    synonyms: tuple[str, ...] = Field(default=(), description="other words for the same thing")
    anchor: str = Field(
        default="", description="what the concept is mapped to; empty: the prompt without the concept"
    )
    members: tuple[Concept, ...] = Field(default=(), description="the concepts that make up a theme")

    @field_validator("name", "anchor", "synonyms", mode="after")
    @classmethod
    def _tidy(cls, value: str | tuple[str, ...], info: ValidationInfo) -> str | tuple[str, ...]:
        if isinstance(value, tuple):
            return tuple(dict.fromkeys(_clean(word, "synonym") for word in value))
        return _clean(value, "name") if info.field_name == "name" else " ".join(value.split())

    @model_validator(mode="after")
    def _only_themes_have_members(self) -> Self:
        if self.members and self.kind is not ConceptKind.theme:
            raise ConfigError(
                f"concept {self.name!r} is of kind {self.kind.value!r} and has members; only a theme has "
                f"members; give it kind 'theme' or leave the members out"
            )
        return self

    @property
    def words(self) -> tuple[str, ...]:
        """Name and synonyms: every word that is mapped to the anchor."""
        return tuple(dict.fromkeys((self.name, *self.synonyms)))

    @property
    def leaves(self) -> tuple[Concept, ...]:
        """The members of a theme, theirs in turn, or the concept itself."""
        return tuple(leaf for member in self.members for leaf in member.leaves) if self.members else (self,)

    def walk(self) -> Iterator[Concept]:
        """This concept, then its members: everything that has words of its own."""
        yield self
        for member in self.members:
            yield from member.walk()


class ConceptSet(_Checked):
    """The concepts that one erasure erases together."""

    concepts: tuple[Concept, ...] = Field(description="what is erased together; at least one, no name twice")

    @model_validator(mode="after")
    def _some_and_distinct(self) -> Self:
        if not self.concepts:
            raise ConfigError(
                "the list of concepts is empty; at least one is needed; name one, as in 'church'"
            )
        counts = Counter(concept.name.casefold() for concept in self.concepts)
        twice = [name for name, count in counts.items() if count > 1]
        if twice:
            raise ConfigError(
                f"concept {twice[0]!r} is named {counts[twice[0]]} times; each concept is erased once; "
                f"leave the repetitions out"
            )
        return self

    def __iter__(self) -> Iterator[Concept]:  # type: ignore[override]  # pydantic's iterates fields
        """The concepts as they were asked for; themes are not opened."""
        return iter(self.concepts)

    def __len__(self) -> int:
        """How many concepts were asked for."""
        return len(self.concepts)

    @property
    def leaves(self) -> tuple[Concept, ...]:
        """Every single concept: themes replaced by their members, each name once."""
        found = {leaf.name.casefold(): leaf for concept in self.concepts for leaf in reversed(concept.leaves)}
        order = dict.fromkeys(leaf.name.casefold() for concept in self.concepts for leaf in concept.leaves)
        return tuple(found[name] for name in order)

    @property
    def names(self) -> tuple[str, ...]:
        """The names as they were asked for."""
        return tuple(concept.name for concept in self.concepts)

    @property
    def words(self) -> frozenset[str]:
        """Every name and synonym that is erased, themes and members included, in lower case."""
        return frozenset(
            word.casefold() for concept in self.concepts for part in concept.walk() for word in part.words
        )


class VocabularyEntry(Protocol):
    """What `resolve_concepts` reads of one known concept."""

    @property
    def name(self) -> str:
        """The concept's own name."""

    @property
    def group(self) -> str:
        """What kind of thing it is; members of a group are neighbours."""

    @property
    def anchor(self) -> str:
        """The neighbour that an erasure maps it to."""

    @property
    def synonyms(self) -> tuple[str, ...]:
        """Other words for the same thing."""


class Vocabulary(Protocol):
    """A table of known concepts, styles and themes; `diffusers_erasure.embedded.vocabulary` is one."""

    @property
    def CONCEPTS(self) -> Mapping[str, VocabularyEntry]:  # noqa: N802 - a module's constant
        """Known concepts by name."""

    @property
    def STYLES(self) -> tuple[str, ...]:  # noqa: N802
        """Known style words."""

    @property
    def THEMES(self) -> Mapping[str, tuple[str, ...]]:  # noqa: N802
        """Concept names by theme."""


def embedded_vocabulary() -> Vocabulary:
    """The embedded pipeline's vocabulary.

    It is found by name: this room lies below the one that holds the table, and only reads it as data.
    """
    return cast(Vocabulary, importlib.import_module("diffusers_erasure.embedded.vocabulary"))


def resolve_concepts(
    names: Iterable[str],
    *,
    vocabulary: Vocabulary | None = None,
    anchors: Sequence[str] = (),
    kind: ConceptKind | None = None,
) -> ConceptSet:
    """Turn names into concepts with synonyms, anchors and kinds.

    An anchor that the vocabulary proposes is never erased itself: erasing dog (to cat) and cat (to
    dog) together takes another neighbour of the same group, or none. A theme may be a whole group, which
    leaves its members no neighbour; they go to a neighbour of their anchor, if it is of another group, or
    else to the first concept of the table that stays.

    Args:
        names: What a user typed: concepts, styles, themes, or words that the vocabulary does not know.
        vocabulary: Table of known names; the embedded pipeline's unless given.
        anchors: None, one for all names, or one for each; they replace the vocabulary's. "" is the prompt
            without the concept.
        kind: Kind of the names that the vocabulary does not know, `object` unless given.

    Raises:
        ConfigError: No name, an empty name, a name given twice, or anchors that do not fit the names.
    """
    if isinstance(names, str):
        names = (names,)
    asked = [_clean(name, "name") for name in names]
    known = vocabulary or embedded_vocabulary()
    erased = _Erased.by(asked, known)
    chosen = _spread_anchors(anchors, asked)
    return ConceptSet(
        concepts=tuple(
            _resolve(name, known, erased=erased, anchor=anchor, kind=kind)
            for name, anchor in zip(asked, chosen, strict=True)
        )
    )


def _fault(fault: Mapping[str, Any]) -> str:
    """One fault that pydantic found, in our words where a validator of ours raised it."""
    raised = fault.get("ctx", {}).get("error")
    if isinstance(raised, ConfigError):
        return str(raised)
    where = ".".join(map(str, fault["loc"])) or "the concept"
    return f"{where} cannot be {fault['input']!r}: {fault['msg'].lower()}; change {where} accordingly"


def _clean(word: str, what: str) -> str:
    tidy = " ".join(word.split())
    if not tidy:
        raise ConfigError(
            f"a concept's {what} is empty ({word!r}); a word or phrase is needed; give one or leave it out"
        )
    return tidy


def _spread_anchors(anchors: Sequence[str], names: Sequence[str]) -> list[str | None]:
    if not anchors:
        return [None] * len(names)
    if len(anchors) not in (1, len(names)):
        raise ConfigError(
            f"{len(anchors)} anchors are given for {len(names)} concepts; one for all or one for each is "
            f"needed; give them in the order of the concepts"
        )
    return [*anchors] if len(anchors) == len(names) else [*anchors] * len(names)


@dataclass(frozen=True)
class _Erased:
    """What an erasure takes away, and so cannot map to.

    Attributes:
        words: Every name that was asked for, themes opened, in lower case.
        themed: Those of them that belong to a theme that was asked for.
    """

    words: frozenset[str]
    themed: frozenset[str]

    @classmethod
    def by(cls, names: Sequence[str], vocabulary: Vocabulary) -> Self:
        """What is erased by these names."""
        asked = frozenset(map(str.casefold, names))
        themed = frozenset(member for name in asked for member in vocabulary.THEMES.get(name, ()))
        return cls(asked | themed, themed)


def _resolve(
    name: str, vocabulary: Vocabulary, *, erased: _Erased, anchor: str | None, kind: ConceptKind | None
) -> Concept:
    key = name.casefold()
    if key in vocabulary.THEMES:
        return _theme(key, vocabulary, erased=erased, anchor=anchor)
    if key in vocabulary.CONCEPTS:
        return _known(vocabulary.CONCEPTS[key], vocabulary, erased=erased, anchor=anchor)
    if key in vocabulary.STYLES:
        other = next((style for style in vocabulary.STYLES if style not in erased.words), "")
        return Concept(name=key, kind=ConceptKind.style, anchor=other if anchor is None else anchor)
    return Concept(name=name, kind=kind or ConceptKind.object, anchor=anchor or "")


def _known(entry: VocabularyEntry, vocabulary: Vocabulary, *, erased: _Erased, anchor: str | None) -> Concept:
    kind = ConceptKind.identity if entry.group == "person" and " " in entry.name else ConceptKind.object
    chosen = _free_anchor(entry, vocabulary, erased) if anchor is None else anchor
    return Concept(name=entry.name, kind=kind, synonyms=entry.synonyms, anchor=chosen)


def _free_anchor(entry: VocabularyEntry, vocabulary: Vocabulary, erased: _Erased) -> str:
    """The table's anchor, or the first neighbour that is not itself being erased.

    Members of an erased theme may have no neighbour left; they look further.
    """
    candidates = [entry.anchor, *_group(entry.group, vocabulary)]
    if entry.name in erased.themed:
        anchor = vocabulary.CONCEPTS.get(entry.anchor, entry)
        candidates += [*_group(anchor.group, vocabulary), *vocabulary.CONCEPTS]
    return next((name for name in candidates if name not in erased.words), "")


def _group(group: str, vocabulary: Vocabulary) -> tuple[str, ...]:
    """Every concept of a group, in the order of the table."""
    return tuple(entry.name for entry in vocabulary.CONCEPTS.values() if entry.group == group)


def _theme(key: str, vocabulary: Vocabulary, *, erased: _Erased, anchor: str | None) -> Concept:
    """A theme: its members, and its own words mapped to the kind of thing that most members become."""
    members = tuple(
        _known(vocabulary.CONCEPTS[name], vocabulary, erased=erased, anchor=anchor)
        for name in vocabulary.THEMES[key]
    )
    groups = Counter(
        vocabulary.CONCEPTS[member.anchor].group for member in members if member.anchor in vocabulary.CONCEPTS
    )
    free = (group for group, _ in groups.most_common() if group not in erased.words)
    own = anchor if anchor is not None else next(free, "")
    singular = (key.removesuffix("s"),) if key.endswith("s") else ()
    return Concept(name=key, kind=ConceptKind.theme, synonyms=singular, anchor=own, members=members)
