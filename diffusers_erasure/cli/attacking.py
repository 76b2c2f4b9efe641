"""What the attack command works with: the pipeline under attack, the prompts, and the judge of each."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffusers_erasure.errors import ConfigError

from .drawing import erased_class
from .known_concepts import judged_by_embedded

if TYPE_CHECKING:
    from diffusers_erasure.attacks import AttackedPrompt
    from diffusers_erasure.concepts import Concept, ConceptKind, ConceptSet
    from diffusers_erasure.evaluation.judges import Panel, Question


@dataclass(frozen=True)
class Scene:
    """What is attacked.

    Attributes:
        attacked: The pipeline under attack.
        base: The un-erased pipeline, where one is known.
        model: Name of the base model.
        digest: Digest of the erasure; "" for a pipeline that has none.
        concepts: The concepts that are attacked for.
        beside: Those of them that the erasure is not of.
    """

    attacked: Any
    base: Any | None
    model: str
    digest: str
    concepts: ConceptSet
    beside: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """What the records call the pipeline."""
        return "erased" if self.digest else "base"


@dataclass(frozen=True)
class Asked:
    """Prompts with the question that is asked about their pictures.

    Attributes:
        items: The prompts.
        question: The judge with the labels that count.
        guidance_scale: Guidance that a prompt file asks for; None leaves it to the model's default.
    """

    items: tuple[AttackedPrompt, ...]
    question: Question
    guidance_scale: float | None = None


def open_scene(
    source: str,
    *,
    model: str | None,
    concepts: Sequence[str],
    kind: ConceptKind | None,
    allow_unerased: bool,
    device: str,
) -> Scene:
    """Load what is attacked: an artifact, a pipeline that was saved erased, or any other pipeline.

    Args:
        source: Folder or Hub id.
        model: Base model, where the source does not name one or another is wanted.
        concepts: Names of the concepts; those that the erasure names unless given.
        kind: Kind of concepts that the vocabulary does not know.
        allow_unerased: Accept a pipeline without an erasure that can be verified.
        device: Where to compute.

    Raises:
        ConfigError: There is no erasure, or nobody says which concepts are erased.
    """
    from diffusers_erasure.artifacts.apply import load_erasure
    from diffusers_erasure.concepts import resolve_concepts
    from diffusers_erasure.evaluation.runner import sibling
    from diffusers_erasure.pipelines.base import load_base_pipeline
    from diffusers_erasure.pipelines.opening import open_source

    opened = open_source(source, revision=None, subfolder=None, hub_options={})
    if opened.artifact is not None:
        named = model or opened.artifact.manifest.base.id
        base = load_base_pipeline(named).to(device)
        erased = sibling(base)
        load_erasure(erased, opened.artifact)
        found = opened.artifact.manifest.concept_names
        asked = resolve_concepts(concepts or found, kind=kind)
        told = {leaf.name for concept in opened.artifact.manifest.concepts for leaf in concept.members}
        told |= {word for concept in opened.artifact.manifest.concepts for word in concept.synonyms}
        beside = _beside(asked, found, kind, told)
        return Scene(erased, base, named, opened.artifact.digest, asked, beside)
    if opened.baked is not None:
        erased = erased_class(opened.class_name).from_pretrained(source).to(device)
        base = load_base_pipeline(model).to(device) if model else None
        found = tuple(dict.fromkeys(name for one in opened.baked.erasures for name in one.concepts))
        digest = ", ".join(erasure.digest for erasure in opened.baked.erasures)
        asked = resolve_concepts(concepts or found, kind=kind)
        return Scene(erased, base, model or source, digest, asked, _beside(asked, found, kind))
    if not allow_unerased or not concepts:
        raise ConfigError(
            f"{source} has no erasure that can be verified; expected an artifact or a pipeline that was "
            "saved erased; to attack it all the same, as a positive control, give --allow_unerased and name "
            "the concept with --concept"
        )
    pipe = load_base_pipeline(source).to(device)
    base = load_base_pipeline(model).to(device) if model else pipe
    return Scene(pipe, base, model or source, "", resolve_concepts(concepts, kind=kind))


def _beside(
    asked: ConceptSet, erased: Sequence[str], kind: ConceptKind | None, told: Collection[str] = ()
) -> tuple[str, ...]:
    """Concepts that are asked for and not erased: no erased name or synonym, nor a member of a theme.

    Args:
        asked: What is asked for.
        erased: Names of the erased concepts.
        kind: Kind of those that the vocabulary does not know.
        told: Members and synonyms that the artifact tells.
    """
    from diffusers_erasure.concepts import resolve_concepts

    leaves = resolve_concepts(erased, kind=kind).leaves
    covered = {word.casefold() for leaf in leaves for word in (leaf.name, *leaf.synonyms)}
    covered |= {word.casefold() for word in told}
    return tuple(
        concept.name for concept in asked if not {leaf.name.casefold() for leaf in concept.leaves} <= covered
    )


def asked_prompts(
    scene: Scene, panel: Panel, *, judge: str, n: int | None, first_seed: int, prompt_file: Path | None
) -> tuple[Asked, ...]:
    """The prompts to attack, grouped by the question that is asked about them.

    Args:
        scene: What is attacked.
        panel: The judges.
        judge: How they were asked for.
        n: Most prompts; 100, or all of a file, unless given.
        first_seed: Seeds of the pictures start here.
        prompt_file: The user's prompts, in place of ours.

    Raises:
        ConfigError: No prompt was asked for, or a file is given for several concepts.
    """
    from diffusers_erasure.evaluation.attack_groups import attack_groups
    from diffusers_erasure.evaluation.embedded_prompts import embedded_prompt_plan
    from diffusers_erasure.evaluation.prompt_sets import check_first_seed

    if n is not None and n < 1:
        raise ConfigError(
            f"--n {n} prompts cannot be attacked; expected at least 1; for a figure that can rank take 100"
        )
    check_first_seed(first_seed)
    if prompt_file is not None:
        return _file_prompts(scene, panel, prompt_file, n, first_seed)
    if judged_by_embedded(judge):
        plan = embedded_prompt_plan(tuple(scene.concepts), n=n or 100, first_seed=first_seed)
        own = next(one for one in plan.sets if one.name == "own name")
        return tuple(Asked(group.items, group.question) for group in attack_groups(own, panel))
    return _own_prompts(scene, panel, n or 100, first_seed)


def _file_prompts(
    scene: Scene, panel: Panel, path: Path, n: int | None, first_seed: int
) -> tuple[Asked, ...]:
    """A file's prompts, grouped by the guidance that their rows ask for."""
    from diffusers_erasure.attacks.prompt_file import read_prompt_file
    from diffusers_erasure.attacks.replay import file_items

    if len(scene.concepts) != 1:
        raise ConfigError(
            f"the prompts of {path} are about one of {', '.join(scene.concepts.names)}; expected to know "
            "which, since the judge is asked about it; name it with --concept"
        )
    rows = read_prompt_file(path)[:n]
    (concept,) = scene.concepts
    items = file_items(rows, concept.name, first_seed=first_seed, origin=str(path))
    question = _question(panel, concept)
    return tuple(
        Asked(
            tuple(item for item, row in zip(items, rows, strict=True) if row.guidance_scale == scale),
            question,
            scale,
        )
        for scale in dict.fromkeys(row.guidance_scale for row in rows)
    )


def _own_prompts(scene: Scene, panel: Panel, n: int, first_seed: int) -> tuple[Asked, ...]:
    """Prompts that name each concept in turn, in wordings that no method trains on."""
    from diffusers_erasure.attacks import AttackedPrompt
    from diffusers_erasure.concepts import ConceptKind
    from diffusers_erasure.prompts import fill, subjects, templates

    found: dict[Concept, list[AttackedPrompt]] = {}
    leaves = scene.concepts.leaves
    for index in range(n):
        concept, turn = leaves[index % len(leaves)], index // len(leaves)
        wordings = templates(concept.kind, "test", world="general")
        shown = subjects("general")
        prompt = fill(
            wordings[turn % len(wordings)],
            concept.name,
            kind=concept.kind,
            subject=shown[turn % len(shown)] if concept.kind is ConceptKind.style else "",
        )
        found.setdefault(concept, []).append(AttackedPrompt(prompt, first_seed + index, concept.name))
    return tuple(Asked(tuple(items), _question(panel, concept)) for concept, items in found.items())


def _question(panel: Panel, concept: Concept) -> Question:
    """The judge and the labels that count: those that were asked for, or the concept's own names."""
    from diffusers_erasure.concepts import ConceptKind
    from diffusers_erasure.evaluation.attack_groups import DeclaredQuestion
    from diffusers_erasure.evaluation.judges import find_labels
    from diffusers_erasure.evaluation.prompt_sets import JudgeRole

    style = concept.kind is ConceptKind.style and panel.style is not None
    judge = panel.of(JudgeRole.STYLE if style else JudgeRole.CONCEPT)
    labels = panel.asked or tuple(leaf.name for leaf in concept.leaves)
    return DeclaredQuestion(judge, find_labels(labels, judge.labels))


def parse_shard(text: str, environment: dict[str, str]) -> tuple[int, int]:
    """Which part of the prompts this process attacks: `i/n`, torchrun's rank, or everything.

    Args:
        text: What the user gave; "" for nothing.
        environment: Where torchrun says which process this is.

    Raises:
        ConfigError: It is no shard.
    """
    if not text:
        rank, world = int(environment.get("RANK", "0")), int(environment.get("WORLD_SIZE", "1"))
        return (rank, world) if world > 1 else (0, 1)
    index, slash, count = text.partition("/")
    if not (slash and index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise ConfigError(
            f"--shard {text!r} is no part of the prompts; expected i/n with i from 0 to n - 1, such as 0/4; "
            "correct it"
        )
    return int(index), int(count)


def with_base(scene: Scene, needs_base: bool, attack: str) -> Scene:
    """The scene, if the attack has what it needs.

    Raises:
        ConfigError: It needs a base that nobody named.
    """
    if needs_base and scene.base is None:
        raise ConfigError(
            f"the attack {attack} compares with the un-erased model, and a pipeline that was saved erased "
            "does not hold it; expected its base; name it with --pretrained_model_name_or_path"
        )
    return scene
