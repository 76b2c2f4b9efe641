"""Methods side by side: what each erases, keeps, and lets come back, over concepts and training seeds.

    python -m benchmarks.robustness --plan advunlearn --work_dir runs/robustness
    python -m benchmarks.robustness --plan advunlearn --work_dir runs/robustness --shard 0/2
    python -m benchmarks.robustness --plan advunlearn --work_dir runs/robustness --report

A plan is a list of variants; a cell is one variant, concept and training seed. Each cell runs what a user
would type: `train`, `evaluate`, and `attack` for UnlearnDiffAtk with its quick budget, for random tokens with
as many judged pictures, and for the plan's further attacks with their quick budgets. The prompts are the same
for every variant; the noise seeds are another range for each training seed, so that the n prompts of three
training seeds are 3 n different pictures.

What is finished is kept, and a run that was stopped goes on; `--shard i/n` runs a part of the cells, so that
several processes share the work. `--report` writes `report.json`, `report.md` and one plot of robustness
against retention, from the cells that are finished.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from benchmarks.robustness_report import CellFiles, report
from diffusers_erasure.cli import console
from diffusers_erasure.cli.attacking import parse_shard
from diffusers_erasure.errors import ConfigError

CONCEPTS = ("church", "dog", "ink", "weapons")
FIRST_SEED, SEEDS_APART = 900_000_000, 10_000
JUDGED_PICTURES = 11
"""What UnlearnDiffAtk's quick budget shows the judge at most: the plain picture and one per noise level."""
_STYLE = ("--negative_guidance", "2", "--num_templates", "None")
STYLE_ESD = (*_STYLE, "--max_train_steps", "400")
_TEXT = ("--train_method", "text_encoder_full")


@dataclass(frozen=True)
class Variant:
    """One way to erase.

    Attributes:
        label: How tables and plots call it.
        method: The command's name for it.
        flags: What differs from its defaults.
        by_concept: The same for single concepts, after `flags`.
    """

    label: str
    method: str
    flags: tuple[str, ...] = ()
    by_concept: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def slug(self) -> str:
        """Its folder's name."""
        return "".join(letter if letter.isalnum() else "-" for letter in self.label.lower())

    def arguments(self, concept: str, seed: int) -> list[str]:
        """What stands after `diffusers-erasure train`."""
        given = [*self.flags, *self.by_concept.get(concept, ())]
        return [self.method, "--concept", concept, "--seed", str(seed), *given]


ESD_UNET = Variant("ESD", "esd", by_concept={"ink": STYLE_ESD})
ESD_TEXT = Variant("ESD text encoder", "esd", _TEXT, {"ink": STYLE_ESD})
_LONGER: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "ink": (*_STYLE, "--max_train_steps", "800", "--retain_weight", "2"),
        "weapons": ("--max_train_steps", "800"),
    }
)
"""A style without a place to go, and five concepts at once, need more steps; see decision 0007."""
ADVUNLEARN = Variant("AdvUnlearn", "advunlearn", by_concept=_LONGER)
TRCE = Variant("TRCE", "trce")
TRCE_1 = Variant("TRCE stage 1", "trce", ("--stages", "1"))
TRCE_2 = Variant("TRCE stage 2", "trce", ("--stages", "2"))


@dataclass(frozen=True)
class Plan:
    """What is set side by side.

    Attributes:
        variants: The first is what the others are compared with.
        attacks: Besides UnlearnDiffAtk and random tokens.
    """

    variants: tuple[Variant, ...]
    attacks: tuple[str, ...] = ()


PLANS: Mapping[str, Plan] = MappingProxyType(
    {
        "advunlearn": Plan(
            (
                ADVUNLEARN,
                ESD_UNET,
                ESD_TEXT,
                Variant("fast AT", "advunlearn", ("--attack_steps", "1", "--attack_rule", "sign"), _LONGER),
            )
        ),
        "ablations": Plan(
            (
                ADVUNLEARN,
                Variant("no retain set", "advunlearn", ("--retain_mode", "none")),
                Variant("first layer", "advunlearn", ("--train_method", "text_encoder_layer0")),
                Variant("γ 0.1", "advunlearn", ("--retain_weight", "0.1")),
                Variant("γ 2", "advunlearn", ("--retain_weight", "2")),
                Variant("1 attack step", "advunlearn", ("--attack_steps", "1")),
                Variant("no attack", "advunlearn", ("--attack_steps", "0")),
                Variant("replace", "advunlearn", ("--attack_placement", "replace")),
                Variant("add", "advunlearn", ("--attack_placement", "add")),
                Variant("UNet", "advunlearn", ("--train_method", "esd-x")),
            )
        ),
        "trce": Plan((TRCE, TRCE_1, TRCE_2, Variant("UCE", "uce"), ESD_UNET), ("ring_a_bell", "soft_prompt")),
        "trce-targets": Plan(
            (
                TRCE_1,
                Variant("[KEY]", "trce", ("--stages", "1", "--eot_weight", "0", "--keyword_weight", "1")),
                Variant("[EoT]+[KEY]", "trce", ("--stages", "1", "--keyword_weight", "1")),
                Variant("[EoT]+[SoT]", "trce", ("--stages", "1", "--sot_weight", "1")),
                Variant("[EoT]+padding", "trce", ("--stages", "1", "--padding_weight", "1")),
            )
        ),
    }
)


@dataclass(frozen=True)
class Cell:
    """One variant, concept and training seed, in a folder of its own, with the plan's further attacks."""

    variant: Variant
    concept: str
    seed: int
    work_dir: Path
    attacks: tuple[str, ...] = ()

    @property
    def files(self) -> CellFiles:
        """Where its results lie."""
        folder = self.work_dir / self.concept / f"{self.variant.slug}-{self.seed}"
        return CellFiles(self.variant.label, self.concept, self.seed, folder, self.attacks)

    def steps(self, n: int) -> Iterator[tuple[str, Path, list[str]]]:
        """Name, file that tells that it is finished, and command of each step."""
        files, first = self.files, FIRST_SEED + SEEDS_APART * self.seed
        artifact = str(files.artifact)
        drawn = ["--n", str(n), "--first_seed", str(first)]
        attack = ["attack", artifact, *drawn, "--batch_size", str(min(n, 34))]
        training = ["train", *self.variant.arguments(self.concept, self.seed), "--output_dir", artifact]
        if self.variant.method == "advunlearn":
            training += ["--retain_bank", str(self.work_dir / "retain-bank")]
        yield "train", files.artifact / "erasure_config.json", training
        pictures = str(self.work_dir / self.concept / "base-pictures")
        evaluate = ["evaluate", artifact, *drawn, "--cache_dir", pictures]
        yield "evaluate", files.evaluation, [*evaluate, "--output_dir", str(files.evaluation.parent)]
        for name, flags in (
            ("unlearndiffatk", ()),
            ("random_tokens", ("--images", str(JUDGED_PICTURES))),
            *((name, ()) for name in self.attacks),
        ):
            done = files.attack(name)
            yield name, done, [*attack, "--attack", name, *flags, "--output_dir", str(done.parent)]


def cells(plan: str, concepts: Sequence[str], seeds: Sequence[int], work_dir: Path) -> list[Cell]:
    """Every cell, those of the first training seed first.

    Raises:
        ConfigError: There is no such plan.
    """
    if plan not in PLANS:
        raise ConfigError(f"unknown plan {plan!r}; expected one of {', '.join(PLANS)}; choose one of them")
    chosen = PLANS[plan]
    return [
        Cell(variant, concept, seed, work_dir, chosen.attacks)
        for seed in seeds
        for concept in concepts
        for variant in chosen.variants
    ]


def run_cell(cell: Cell, n: int) -> None:
    """Run what is missing of a cell.

    Raises:
        RuntimeError: A command failed; its log is named.
    """
    for name, done, command in cell.steps(n):
        if done.exists():
            continue
        console.say(f"{cell.concept}, {cell.variant.label}, training seed {cell.seed}: {name}")
        seconds = _run(name, done, command, cell.files.folder)
        if not done.exists():
            raise RuntimeError(
                f"{name} of {cell.files.folder} ended without {done.name}; expected it; see "
                f"{cell.files.folder / name}.log, mend it and start again"
            )
        cell.files.note_seconds(name, seconds)


def _run(name: str, done: Path, command: Sequence[str], folder: Path) -> float:
    """Run one command with a log of its own; wall seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    resume = (
        ["--resume_from_checkpoint", "latest"] if name == "train" and _has_checkpoint(done.parent) else []
    )
    full = [sys.executable, "-m", "diffusers_erasure", *command, *resume]
    with (folder / f"{name}.log").open("ab") as log:
        subprocess.run(full, stdout=log, stderr=subprocess.STDOUT, check=False)
    return time.perf_counter() - began


def _has_checkpoint(artifact: Path) -> bool:
    """Whether a training that was stopped left something to go on from."""
    return any(artifact.with_name(f"{artifact.name}-training").glob("checkpoint-*"))


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--plan", choices=sorted(PLANS), default="advunlearn")
    parser.add_argument("--concepts", nargs="+", default=list(CONCEPTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of the training")
    parser.add_argument("--n", type=int, default=34, help="pictures of each prompt set and training seed")
    parser.add_argument("--work_dir", type=Path, default=Path("runs/robustness"))
    parser.add_argument("--shard", default="0/1", help="run part i of n of the cells, as i/n from 0 on")
    parser.add_argument("--report", action="store_true", help="only write the report of what is finished")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the cells of a shard, then report what is finished."""
    given = _arguments(argv)
    every = cells(given.plan, given.concepts, given.seeds, given.work_dir)
    if not given.report:
        shard, of = parse_shard(given.shard, {})
        for cell in every[shard::of]:
            run_cell(cell, given.n)
    found = report([cell.files for cell in every], given.work_dir / f"report-{given.plan}")
    console.out().print(found.table)
    for file in found.written:
        console.say(f"wrote {file}")
    console.note(f"{found.finished} of {len(every)} cells are finished")
    return 0 if found.finished == len(every) else 1


if __name__ == "__main__":
    sys.exit(main())
