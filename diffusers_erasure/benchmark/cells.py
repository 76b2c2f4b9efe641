"""One variant, concept and training seed: its folder, and the commands that fill it.

Every step is what a user would type: `train`, `evaluate`, and one `attack` for each attack with its quick
budget. The prompts are the same for every variant; the noise seeds are another range for each training seed,
so that the n prompts of three training seeds are 3 n different pictures.

    <work folder>/<concept>/<slug>-<seed>/artifact/            what was trained
                                          evaluation/          evaluation.json and a picture
                                          <attack>/            attack.json, outcomes.jsonl and a picture
                                          <step>.log           what the step said
                                          seconds.json         wall seconds of steps that ran in one go

What an earlier run measured need not lie in the folder: its condensed results stand for its steps (`Known`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from diffusers_erasure.artifacts.manifest import MANIFEST_NAME, Manifest, canonical_json, parse_manifest
from diffusers_erasure.durable import write_whole
from diffusers_erasure.errors import ConfigError

from .profiles import Profile
from .variants import Variant

FIRST_SEED, SEEDS_APART = 900_000_000, 10_000
"""Noise seeds of the first training seed, and how far on those of the next begin."""
LUCK_PICTURES = 11
"""What UnlearnDiffAtk's and P4D's quick budgets show the judge at most, and so what luck may show it."""
LARGEST_BATCH = 34
TRAIN, EVALUATE = "train", "evaluate"
SETTINGS = "benchmark-settings.json"
_FAILED_PROMPTS = re.compile(r'"marks":\s*"[01]*F')
_EVALUATIONS = re.compile(r"^\s*UNet evaluations\s+(\d+)\s*$", flags=re.MULTILINE)


@dataclass(frozen=True)
class Step:
    """One command of a cell.

    Attributes:
        name: `train`, `evaluate`, or the attack's.
        done: The file that tells that it is finished.
        command: What stands after `diffusers-erasure`.
        known: Whether an earlier run's results stand for it.
    """

    name: str
    done: Path
    command: tuple[str, ...]
    known: bool = False

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do; failed prompts of an attack are left to be tried again."""
        if self.known:
            return True
        if not self.done.is_file():
            return False
        if self.name in (TRAIN, EVALUATE):
            return True
        return not _FAILED_PROMPTS.search(self.done.read_text(encoding="utf-8", errors="replace"))


@dataclass(frozen=True)
class Known:
    """Steps of a cell whose results an earlier run left, without its folder.

    Attributes:
        weights: Digest of the weights that they are of (`weights_digest`); empty if it was not kept.
        steps: Their names; training is none, since its result is the artifact.
    """

    weights: str
    steps: frozenset[str]


@dataclass(frozen=True)
class Cell:
    """One variant, concept and training seed.

    Attributes:
        variant: How it is erased.
        concept: What is erased.
        seed: Of the training.
        work_dir: Where the benchmark lies.
        attacks: What is tried on it.
        prompts: Pictures of each prompt set, and prompts of each attack.
        known: What an earlier run measured; None if nothing.
    """

    variant: Variant
    concept: str
    seed: int
    work_dir: Path
    attacks: tuple[str, ...]
    prompts: int
    known: Known | None = None

    def __str__(self) -> str:
        """For a person."""
        return f"{self.concept}, {self.variant.label}, training seed {self.seed}"

    @property
    def folder(self) -> Path:
        """Where its results lie."""
        return self.work_dir / self.concept / f"{self.variant.slug}-{self.seed}"

    @property
    def artifact(self) -> Path:
        """The erasure."""
        return self.folder / "artifact"

    @property
    def evaluation(self) -> Path:
        """Its evaluation without attacks."""
        return self.folder / "evaluation" / "evaluation.json"

    def attack(self, name: str) -> Path:
        """The report of an attack on it."""
        return self.folder / name / "attack.json"

    def log(self, step: str) -> Path:
        """What a step said."""
        return self.folder / f"{step}.log"

    @property
    def finished(self) -> bool:
        """Whether every step is."""
        return all(step.finished for step in self.steps())

    @property
    def seconds(self) -> Mapping[str, float]:
        """Wall seconds of each step that ran in one go."""
        file = self.folder / "seconds.json"
        return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}

    def note_seconds(self, name: str, seconds: float) -> None:
        """Keep how long a step took."""
        text = json.dumps({**self.seconds, name: round(seconds, 1)}, indent=1) + "\n"
        write_whole(self.folder / "seconds.json", text.encode())

    @property
    def unet_evaluations(self) -> int | None:
        """What the training took, as its log says; None if it does not, or if the run was gone on with."""
        log = self.log(TRAIN)
        said = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
        found = _EVALUATIONS.findall(said)
        return int(found[0]) if len(found) == 1 and TRAIN in self.seconds else None

    def steps(self) -> Iterator[Step]:
        """What fills the folder, in order.

        Raises:
            ArtifactError: The folder's artifact has no manifest that can be read.
        """
        yield replace(self._training(), known=TRAIN in self._known_steps())
        known = self._known_steps()  # again: whoever ran the training knows the weights only now
        for step in self._measuring():
            yield replace(step, known=step.name in known)

    def _known_steps(self) -> frozenset[str]:
        """What need not be run; measurements of other weights than the folder's stand for nothing."""
        if self.known is None:
            return frozenset()
        if (file := self.artifact / MANIFEST_NAME).is_file():
            here = weights_digest(parse_manifest(file.read_bytes(), origin=str(file)))
            return self.known.steps if here == self.known.weights else frozenset()
        measured = {EVALUATE, *self.attacks} <= self.known.steps
        return self.known.steps | {TRAIN} if measured else self.known.steps

    def _measuring(self) -> Iterator[Step]:
        drawn = ("--n", str(self.prompts), "--first_seed", str(FIRST_SEED + SEEDS_APART * self.seed))
        artifact = str(self.artifact)
        pictures = str(self.work_dir / self.concept / "base-pictures")
        evaluate = ("evaluate", artifact, *drawn, "--cache_dir", pictures)
        yield Step(EVALUATE, self.evaluation, (*evaluate, "--output_dir", str(self.evaluation.parent)))
        attack = ("attack", artifact, *drawn, "--batch_size", str(min(self.prompts, LARGEST_BATCH)))
        for name in self.attacks:
            done = self.attack(name)
            images = ("--images", str(LUCK_PICTURES)) if name == "random_tokens" else ()
            command = (*attack, "--attack", name, *images, "--output_dir", str(done.parent))
            yield Step(name, done, command)

    def _training(self) -> Step:
        arguments = self.variant.arguments(self.concept, self.seed)
        command = [TRAIN, *arguments, "--output_dir", str(self.artifact)]
        if self.variant.shares_bank:
            named = ["retain-bank", *_value_of("--retain_set", command)]  # a bank holds one retain set
            command += ["--retain_bank", str(self.work_dir / "-".join(named))]
        return Step(TRAIN, self.artifact / MANIFEST_NAME, tuple(command))


def _value_of(flag: str, command: Sequence[str]) -> Sequence[str]:
    """What stands after a flag, or nothing where the command does not have it."""
    return [value for name, value in pairwise(command) if name == flag]


def cells(
    chosen: Profile,
    work_dir: Path,
    *,
    concepts: Sequence[str] = (),
    seeds: Sequence[int] = (),
    methods: Sequence[str] = (),
    attacks: Sequence[str] = (),
) -> list[Cell]:
    """Every cell of a profile, those of the first training seed first.

    Args:
        chosen: The profile.
        work_dir: Where the benchmark lies.
        concepts: Only these; all of the profile unless given.
        seeds: Only these training seeds.
        methods: Only the variants of these slugs.
        attacks: Only these attacks.

    Raises:
        ConfigError: The profile has no such concept, seed, variant or attack.
    """
    slugs = tuple(one.slug for one in chosen.variants)
    for what, given, known in (
        ("concept", concepts, chosen.concepts),
        ("training seed", seeds, chosen.seeds),
        ("variant", methods, slugs),
        ("attack", attacks, chosen.attacks),
    ):
        for one in given:
            if one not in known:
                raise ConfigError(
                    f"the profile {chosen.name} has no {what} {one!r}; expected some of "
                    f"{', '.join(map(str, known))}; choose of these, or another --profile"
                )
    tried = tuple(name for name in chosen.attacks if name in (attacks or chosen.attacks))
    return [
        Cell(variant, concept, seed, work_dir, tried, chosen.prompts)
        for seed in chosen.seeds
        if seed in (seeds or chosen.seeds)
        for concept in chosen.concepts
        if concept in (concepts or chosen.concepts)
        for variant in chosen.variants
        if variant.slug in (methods or slugs)
    ]


def weights_digest(manifest: Manifest) -> str:
    """sha256 that names an artifact's weights, whatever versions trained them."""
    files = {spec.file: manifest.files[spec.file] for spec in manifest.components.values()}
    return hashlib.sha256(canonical_json(files)).hexdigest()


def check_work_folder(work_dir: Path, prompts: int) -> None:
    """Note how many prompts the cells of a folder have, and refuse another number.

    Raises:
        ConfigError: The folder holds cells of another number of prompts.
    """
    file = work_dir / SETTINGS
    if not file.is_file():
        write_whole(file, (json.dumps({"prompts": prompts}) + "\n").encode())
    found = json.loads(file.read_text(encoding="utf-8")).get("prompts")
    if found != prompts:
        raise ConfigError(
            f"{work_dir} holds cells of {found} prompts; expected {prompts}, since pictures of other prompts "
            "cannot be compared one by one; give another --work_dir"
        )
