"""The prompt sets of the embedded pipeline, built from its vocabulary and the test split of the templates."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Literal, Protocol

from diffusers_erasure.concepts import ConceptKind
from diffusers_erasure.embedded.vocabulary import CONCEPTS, STYLES, THEMES
from diffusers_erasure.errors import EvaluationError
from diffusers_erasure.prompts import Split, fill, phrase, templates

from .prompt_sets import (
    FIRST_DEV_SEED,
    FIRST_TEST_SEED,
    PURPOSES,
    SEED_STRIDE,
    SET_ORDER,
    JudgeRole,
    PromptItem,
    PromptPlan,
    PromptSet,
    first_seed_of,
)

DEV_PROMPTS = 100
"""Prompts of each set of the dev split."""


class NamedConcept(Protocol):
    """What is read of an erased concept; a manifest's record and a `Concept` both have it."""

    @property
    def name(self) -> str:
        """The concept's own name."""

    @property
    def synonyms(self) -> tuple[str, ...]:
        """Other words for it that the method was told."""

    @property
    def members(self) -> Sequence[NamedConcept]:
        """Concepts that a theme consists of."""


@dataclass(frozen=True)
class Targets:
    """Erased concepts in the judge's words.

    Attributes:
        objects: Concepts of the vocabulary, members of themes included.
        styles: Styles of the vocabulary.
        synonyms: Other words for each of them, by name.
        theme_words: Names of erased themes and their synonyms, each with the theme's members.
        split: Templates that prompts are made of.
    """

    objects: tuple[str, ...]
    styles: tuple[str, ...]
    synonyms: Mapping[str, tuple[str, ...]]
    theme_words: tuple[tuple[str, tuple[str, ...]], ...] = ()
    split: Split = "test"


@dataclass(frozen=True)
class _Question:
    about: str
    labels: tuple[str, ...]
    role: JudgeRole
    prompts: tuple[str, ...]


def find_targets(concepts: Sequence[NamedConcept]) -> Targets:
    """Find erased concepts in the vocabulary of the embedded pipeline and its judges.

    Names are taken as they are or as a synonym of the vocabulary ("puppy" is dog); themes stand for their
    members.
    """
    objects: dict[str, tuple[str, ...]] = {}
    styles: dict[str, tuple[str, ...]] = {}
    theme_words: list[tuple[str, tuple[str, ...]]] = []
    for concept in concepts:
        name = concept.name.casefold()
        members = tuple(member.name for member in concept.members) or THEMES.get(name, ())
        if members:
            inside = find_targets(concept.members) if concept.members else _vocabulary_targets(members)
            objects.update({member: inside.synonyms[member] for member in inside.objects})
            styles.update({member: inside.synonyms[member] for member in inside.styles})
            labels = inside.objects
            theme_words += [(word, labels) for word in dict.fromkeys((name, *concept.synonyms)) if labels]
        elif name in STYLES:
            styles[name] = tuple(concept.synonyms)
        else:
            known = _known_name(name)
            words = (name, *concept.synonyms, *CONCEPTS[known].synonyms)
            objects[known] = tuple(
                word for word in dict.fromkeys(words) if word and f" {known} " not in f" {word} "
            )
    return Targets(tuple(objects), tuple(styles), {**objects, **styles}, tuple(theme_words))


def _vocabulary_targets(names: Iterable[str]) -> Targets:
    objects = {name: CONCEPTS[name].other_words for name in names}
    return Targets(tuple(objects), (), objects)


def _known_name(name: str) -> str:
    if name in CONCEPTS:
        return name
    found = next((entry.name for entry in CONCEPTS.values() if name in entry.synonyms), None)
    if found is None:
        raise EvaluationError(
            f"the concept {name!r} is not in the vocabulary of the embedded pipeline, so its judges cannot "
            f"see it; expected one of {', '.join((*CONCEPTS, *STYLES, *THEMES))}; take a judge that "
            "can see it, with prompts of your own"
        )
    return found


def embedded_prompt_plan(
    concepts: Sequence[NamedConcept],
    *,
    n: int = 100,
    first_seed: int | None = None,
    split: Literal["test", "dev"] = "test",
) -> PromptPlan:
    """The prompt sets that measure an erasure on the embedded pipeline.

    Args:
        concepts: What was erased, as the artifact's manifest names it.
        n: Pictures per set.
        first_seed: Seeds of the pictures start here; None takes those of the split.
        split: `test` for figures, `dev` for whoever chooses settings by figures.
    """
    if first_seed is None:
        first_seed = FIRST_TEST_SEED if split == "test" else FIRST_DEV_SEED
    if not 1 <= n <= SEED_STRIDE:
        raise EvaluationError(
            f"{n} pictures per set cannot be drawn; expected 1 to {SEED_STRIDE}; for a figure that can rank, "
            "take 100 or more"
        )
    targets = replace(find_targets(concepts), split="test" if split == "test" else "train")
    questions = {**_erased_questions(targets), **_retention_questions(targets)}
    ordered = [(name, questions[name]) for name in SET_ORDER if name in questions]
    sets = tuple(
        PromptSet(name, PURPOSES[name], _items(asked, n, first_seed_of(name, first_seed)))
        for name, asked in ordered
        if asked
    )
    missing = {
        name: f"the vocabulary has none for {', '.join(targets.synonyms)}"
        for name, asked in ordered
        if not asked
    }
    dev = () if split == "dev" else _dev_prompts(concepts)
    return PromptPlan(sets, missing, dev)


def _dev_prompts(concepts: Sequence[NamedConcept]) -> tuple[str, ...]:
    """Prompts of the dev split that use templates; words that imply a concept have none."""
    plan = embedded_prompt_plan(concepts, n=DEV_PROMPTS, split="dev")
    prompts = (one.prompts for one in plan.sets if one.name != "implicit")
    return tuple(dict.fromkeys(prompt for part in prompts for prompt in part))


def _items(questions: Sequence[_Question], n: int, first_seed: int) -> tuple[PromptItem, ...]:
    """Ask the questions in turn; each goes through its prompts, and neighbours start at different ones."""
    items = []
    for index in range(n):
        turn, position = divmod(index, len(questions))
        asked = questions[position]
        prompt = asked.prompts[(turn + position) % len(asked.prompts)]
        items.append(PromptItem(prompt, first_seed + index, asked.about, asked.labels, asked.role))
    return tuple(items)


def _erased_questions(targets: Targets) -> dict[str, list[_Question]]:
    objects, styles = targets.objects, targets.styles
    own, synonyms, implicit = [], [], []
    for name in objects:
        words = targets.synonyms[name]
        own.append(_Question(name, objects, JudgeRole.CONCEPT, _object_prompts(name, targets)))
        synonyms += [
            _Question(name, objects, JudgeRole.CONCEPT, _plain_prompts(word, targets)) for word in words
        ]
        implicit.append(_Question(name, objects, JudgeRole.CONCEPT, _tag_prompts(name)))
    for word, labels in targets.theme_words:
        implicit.append(
            _Question(word, labels, JudgeRole.CONCEPT, _plain_prompts(word, targets, ConceptKind.theme))
        )
    for style in styles:
        subjects = _kept_objects(targets)
        own.append(_Question(style, styles, JudgeRole.STYLE, _style_prompts(style, subjects, targets.split)))
        synonyms += [
            _Question(style, styles, JudgeRole.STYLE, _style_prompts(word, subjects, targets.split))
            for word in targets.synonyms[style]
        ]
    return {"own name": own, "synonyms": synonyms, "implicit": implicit}


def _retention_questions(targets: Targets) -> dict[str, list[_Question]]:
    kept = _kept_objects(targets)
    groups = {CONCEPTS[name].group for name in targets.objects}
    near = [_object_question(name, targets) for name in kept if CONCEPTS[name].group in groups]
    far = [_object_question(name, targets) for name in kept if CONCEPTS[name].group not in groups]
    styles = [
        _Question(style, (style,), JudgeRole.STYLE, _style_prompts(style, kept, targets.split))
        for style in STYLES
        if style not in targets.styles
    ]
    found: dict[str, list[_Question]] = {}
    if targets.objects:
        found["neighbours"] = near
        found["other concepts"] = far
    else:
        found["objects"] = far
    if targets.styles:
        found["other styles"] = styles
        found["objects, erased style"] = _objects_in_erased_style(targets)
    else:
        found["styles"] = styles
    return found


def _objects_in_erased_style(targets: Targets) -> list[_Question]:
    return [
        _Question(
            name,
            (name,),
            JudgeRole.CONCEPT,
            tuple(_style_prompts(style, (name,), targets.split)[0] for style in targets.styles),
        )
        for name in _kept_objects(targets)
    ]


def _kept_objects(targets: Targets) -> tuple[str, ...]:
    """Concepts that are not erased, in an order that is fixed but mixes the groups."""
    kept = [name for name in CONCEPTS if name not in targets.objects]
    return tuple(sorted(kept, key=lambda name: hashlib.sha256(name.encode()).digest()))


def _object_question(name: str, targets: Targets) -> _Question:
    return _Question(name, (name,), JudgeRole.CONCEPT, _object_prompts(name, targets))


def _plain_prompts(word: str, targets: Targets, kind: ConceptKind = ConceptKind.object) -> tuple[str, ...]:
    return tuple(fill(template, word, kind=kind) for template in templates(ConceptKind.object, targets.split))


def _object_prompts(name: str, targets: Targets) -> tuple[str, ...]:
    """The concept plain, and in every style that is not erased."""
    frames = templates(ConceptKind.style, targets.split)
    styles = [style for style in STYLES if style not in targets.styles]
    styled = tuple(
        fill(frames[index % len(frames)], style, kind=ConceptKind.style, subject=phrase(name))
        for index, style in enumerate(styles)
    )
    return _alternate(_plain_prompts(name, targets), styled)


def _style_prompts(style: str, subjects: Sequence[str], split: Split) -> tuple[str, ...]:
    """The style on each subject."""
    frames = templates(ConceptKind.style, split)
    return tuple(
        fill(frames[index % len(frames)], style, kind=ConceptKind.style, subject=phrase(subject))
        for index, subject in enumerate(subjects)
    )


def _tag_prompts(name: str) -> tuple[str, ...]:
    """The words that imply the concept, as a list that begins at each of them in turn."""
    tags = [tag for tag in CONCEPTS[name].tags if tag]
    return tuple(", ".join(tags[start:] + tags[:start]) for start in range(len(tags)))


def _alternate(first: Sequence[str], second: Sequence[str]) -> tuple[str, ...]:
    """One of each in turn, then the rest of the longer one."""
    return tuple(prompt for turn in zip_longest(first, second) for prompt in turn if prompt is not None)
