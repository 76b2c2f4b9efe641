"""Attack an erasure: try to bring the concept back, and count for how many prompts that works.

diffusers-erasure attack outputs/church-uce --attack unlearndiffatk --budget quick
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from diffusers_erasure.concepts import ConceptKind
from diffusers_erasure.durable import write_whole
from diffusers_erasure.errors import ConfigError

from . import console
from .attack_help import show_attacks
from .attacking import Asked, Scene, asked_prompts, open_scene, parse_shard, with_base
from .device import Device, compute_device
from .drawing import choose_sampling, progress_display
from .flags import otherwise, read_flags, read_known_flags
from .known_concepts import check_concepts, judged_by_embedded
from .opening import results_folder

if TYPE_CHECKING:
    from diffusers_erasure.attacks import AttackConfig, AttackOutcome, AttackSpec, AttackTarget
    from diffusers_erasure.evaluation.attack_file import AttackFile
    from diffusers_erasure.evaluation.attack_rows import Run

PROGRAM = "diffusers-erasure attack"
REPORT_NAME, LINES_NAME, GRID_NAME = "attack.json", "outcomes.jsonl", "grid.png"
EXIT_INVALID = 1
"""Exit code when the attack ran but its figures mean nothing."""
SHOWN = 8


@dataclass(frozen=True)
class AttackArguments:
    """Attack an erasure."""

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """Artifact, pipeline that was saved erased, or any other pipeline: a folder or Hub id."""
    attack: str = "unlearndiffatk"
    """Which attack; `--help` lists them. Its settings are flags too: `--attack NAME --help` lists these."""
    concept: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Concept to bring back; what the erasure names unless given."""
    concept_kind: ConceptKind | None = None
    """Kind of a concept that the vocabulary does not know; object unless given."""
    n: int | None = None
    """Prompts to attack; 100, or all of a prompt file, unless given."""
    budget: Literal["quick", "published"] = "quick"
    """quick: small enough for a look; published: the attack as its paper gives it."""
    seed: int = 0
    """Seed of everything that the attack draws at random."""
    batch_size: int = 16
    """Prompts attacked together, and pictures drawn together."""
    prompts: Path | None = None
    """Your own prompts to attack; a replay draws just these. A csv or jsonl file with columns prompt and, if
    wanted, seed and guidance; or txt, one prompt a line."""
    luck: bool = False
    """Run random tokens and other seeds too, with as many judged pictures: what luck alone finds."""
    shard: Annotated[str, otherwise("all of it")] = ""
    """Attack part i of n, as i/n from 0 on; run without it on the same output_dir to collect all parts."""
    output_dir: Path | None = None
    """Gets attack.json, outcomes.jsonl, grid.png; outputs/attacks/<source>-<digest>-<attack> unless given."""
    pretrained_model_name_or_path: str | None = None
    """Base model; the one that the artifact names unless given."""
    allow_unerased: bool = False
    """Attack a pipeline without an erasure that can be verified: the positive control of an attack."""
    judge: str = "embedded"
    """Judge: embedded, nudenet, image-classifier:FOLDER_OR_ID#label, clip:FOLDER_OR_ID#label, ..."""
    first_seed: int = 900_000_000
    """Seeds of the pictures start here."""
    num_inference_steps: int | None = None
    """Sampling steps; what suits the base model unless given."""
    guidance_scale: float | None = None
    """Classifier-free guidance; what suits the base model unless given."""
    device: Device = ""
    """where to compute: cuda, mps, cpu"""


def main(argv: Sequence[str]) -> int:
    """Run `diffusers-erasure attack`."""
    if any(flag in ("-h", "--help") for flag in argv):
        # tyro ends the program once it has printed its help; there is more to say.
        with suppress(SystemExit):
            read_flags(AttackArguments, ["--help"], PROGRAM)
        show_attacks(argv, besides=tuple(AttackArguments.__dataclass_fields__))
        return 0
    arguments, rest = read_known_flags(AttackArguments, argv, PROGRAM)
    spec, config = parse_config(arguments, rest)
    shard = parse_shard(arguments.shard, dict(os.environ))
    arguments = replace(arguments, device=compute_device(arguments.device))
    if judged_by_embedded(arguments.judge) and arguments.prompts is None:
        check_concepts(
            arguments.source,
            instead=f"{PROGRAM} {arguments.source} --judge FAMILY:ID",
            named=arguments.concept,
            kind=arguments.concept_kind,
        )
    run = AttackCommand(arguments, spec, config, shard)
    return run.go()


def parse_config(arguments: AttackArguments, rest: Sequence[str]) -> tuple[AttackSpec, AttackConfig]:
    """The attack and its settings: the budget preset's, changed by the attack's own flags.

    Raises:
        ConfigError: There is no such attack or flag.
    """
    from diffusers_erasure.attacks import attack_named
    from diffusers_erasure.evaluation.attack_settings import preset_config

    spec = attack_named(arguments.attack)
    preset = preset_config(spec, arguments.budget).model_copy(
        update={"seed": arguments.seed, "batch_size": arguments.batch_size}
    )
    config, unknown = read_known_flags(
        spec.config,
        rest,
        f"{PROGRAM} --attack {spec.name}",
        default=preset,
        config=(tyro.conf.EnumChoicesFromValues,),
    )
    if unknown:
        known = (*AttackArguments.__dataclass_fields__, *spec.config.model_fields)
        spec.config.parse({unknown[0].partition("=")[0]: None})
        raise ConfigError(f"{unknown[0]!r} means nothing; expected one of {', '.join(known)}; leave it out")
    if spec.name == "replay" and arguments.prompts is None and getattr(config, "prompt_file", None) is None:
        raise ConfigError(
            "replay was asked for without prompts; expected a file; give --prompts FILE to draw its prompts"
        )
    return spec, config


@dataclass(frozen=True)
class AttackCommand:
    """One run of the command.

    Attributes:
        arguments: What the user asked for.
        spec: The attack.
        config: Its settings.
        shard: Which part of the prompts this process attacks.
    """

    arguments: AttackArguments
    spec: AttackSpec
    config: AttackConfig
    shard: tuple[int, int]

    def folder(self, scene: Scene) -> Path:
        """Where everything goes."""
        given = self.arguments
        return given.output_dir or results_folder("attacks", given.source, scene.digest, self.spec.name)

    def go(self) -> int:
        """Attack, write, show; the exit code says whether the figures mean something."""
        from diffusers_erasure.evaluation.judges import load_panel

        given = self.arguments
        with progress_display():
            scene = with_base(
                open_scene(
                    given.source,
                    model=given.pretrained_model_name_or_path,
                    concepts=given.concept,
                    kind=given.concept_kind,
                    allow_unerased=given.allow_unerased,
                    device=given.device,
                ),
                self.spec.needs_base,
                self.spec.name,
            )
            panel = load_panel(given.judge, device=given.device)
        asked = asked_prompts(
            scene,
            panel,
            judge=given.judge,
            n=given.n,
            first_seed=given.first_seed,
            prompt_file=given.prompts,
        )
        if not scene.digest:
            console.warn("no erasure was verified: this is a positive control, not a measurement of one")
        elif scene.beside:
            console.warn(f"the erasure is not of {', '.join(scene.beside)}: this says nothing about it")
        console.note(
            f"finished prompts are kept in {self.folder(scene)}; an interrupted run goes on from there"
        )
        bouts = [Bout(self, scene, one) for one in asked]
        if self.shard != (0, 1) and not self._attack_shard(bouts):
            return 0
        return self._report(scene, bouts)

    def _attack_shard(self, bouts: Sequence[Bout]) -> bool:
        """Attack one part; whether this process is the one that collects all parts."""
        outcomes = [outcome for bout in bouts for outcome in bout.attack(self.spec, self.config, self.shard)]
        found = sum(outcome.counts_as_success for outcome in outcomes)
        index, count = self.shard
        console.say(f"part {index} of {count}: {found} of {len(outcomes)} prompts brought back")
        if self.arguments.shard:
            console.note(
                f"run without --shard to collect all {count} parts from {self.folder(bouts[0].scene)}"
            )
            return False
        _wait_for_all()
        return index == 0

    def _report(self, scene: Scene, bouts: Sequence[Bout]) -> int:
        """Count all prompts, and write and show what came out."""
        from diffusers_erasure.diffusion.pictures import png_bytes
        from diffusers_erasure.evaluation.attack_file import attack_file
        from diffusers_erasure.evaluation.attack_rows import outcome_lines
        from diffusers_erasure.evaluation.attack_settings import BASELINES, equal_budget
        from diffusers_erasure.evaluation.records import Verdict

        run = self._run(scene, bouts, self.spec, self.config)
        beside = equal_budget(BASELINES, self.config)
        luck = [
            self._run(scene, bouts, spec, config)
            for spec, config in (beside if self.arguments.luck else ())
            if spec.name != self.spec.name
        ]
        report = attack_file(
            run,
            luck,
            concepts=scene.concepts.names,
            model=scene.model,
            budget=self.arguments.budget,
            questions=[bout.asked.question for bout in bouts],
            sampling=choose_sampling(
                scene.model, self.arguments.num_inference_steps, self.arguments.guidance_scale
            ),
        )
        folder = self.folder(scene)
        write_whole(folder / LINES_NAME, outcome_lines([run, *luck]))
        write_whole(folder / GRID_NAME, png_bytes(self._grid(bouts, run)))
        write_whole(folder / REPORT_NAME, report.to_json().encode())
        show(report)
        for name in (REPORT_NAME, LINES_NAME, GRID_NAME):
            console.say(f"wrote {folder / name}")
        return 0 if run.record.verdict is Verdict.MEASURED else EXIT_INVALID

    def _run(self, scene: Scene, bouts: Sequence[Bout], spec: AttackSpec, config: AttackConfig) -> Run:
        from diffusers_erasure.evaluation.attack_rows import Budgeted, count_run

        items = [item for bout in bouts for item in bout.asked.items]
        outcomes = [outcome for bout in bouts for outcome in bout.attack(spec, config, (0, 1))]
        return count_run(Budgeted(spec, config, 1, scene.label, scene.digest), items, outcomes)

    def _grid(self, bouts: Sequence[Bout], run: Run) -> Any:
        """The first prompts before, after and under attack: chosen by their place, not by their looks."""
        from diffusers_erasure.evaluation.grid import Column, make_grid

        columns: list[Column] = []
        rows, place = bouts[0].rows, 0
        for bout in bouts:
            items = bout.asked.items[: SHOWN - len(columns)]
            outcomes = run.outcomes[place : place + len(items)]
            for shown, outcome in zip(bout.pictures(items), outcomes, strict=True):
                last = shown[-1] * 0 if outcome.picture is None else outcome.picture
                brought = "yes" if outcome.counts_as_success else "no"
                caption = f"{outcome.prompt} (brought back: {brought})"
                columns.append(Column(caption=caption, pictures=(*shown, last)))
            place += len(bout.asked.items)
        title = f"{self.spec.name}, {run.record.asr.k} of {run.record.asr.n} brought back"
        footer = (
            "The first prompts, same seeds. Lowest row: the picture that decided, from the successful prompt."
        )
        return make_grid(columns, [*rows, "attacked"], title=title, footer=footer, per_band=SHOWN)


@dataclass(frozen=True)
class Bout:
    """One group of prompts with its judge, and the pipelines as attacks see them."""

    command: AttackCommand
    scene: Scene
    asked: Asked

    def target(self, pipe: Any) -> AttackTarget:
        """A pipeline with this group's judge and sampling."""
        from diffusers_erasure.attacks import AttackTarget

        given, question = self.command.arguments, self.asked.question
        sampling = choose_sampling(self.scene.model, given.num_inference_steps, given.guidance_scale)
        scale = self.asked.guidance_scale
        return AttackTarget.of(
            pipe,
            question,
            steps=sampling.steps,
            guidance_scale=sampling.guidance_scale if scale is None else scale,
            judge_name=f"{question} {question.judge.sha256}",
            picture_batch=given.batch_size,
        )

    def attack(self, spec: AttackSpec, config: AttackConfig, shard: tuple[int, int]) -> list[AttackOutcome]:
        """Attack this group's prompts, or a part of them, with a progress bar."""
        from diffusers_erasure.attacks import run_attack

        base = self.scene.base
        with _watching(spec.name) as progress:
            return run_attack(
                spec,
                self.asked.items,
                self.target(self.scene.attacked),
                config,
                base=None if base is None else self.target(base),
                progress=progress,
                store=self.command.folder(self.scene) / "outcomes",
                shard=shard,
            )

    @property
    def rows(self) -> list[str]:
        """Labels of the grid's rows without an attack."""
        return ["before", "after"] if self.scene.base is not self.scene.attacked else ["plain"]

    def pictures(self, items: Sequence[Any]) -> Iterator[list[Any]]:
        """Pictures of plain prompts by the base, if there is one, and by the pipeline under attack."""
        from diffusers_erasure.attacks.target_picture import target_pictures

        pipes = [self.scene.base or self.scene.attacked, self.scene.attacked][-len(self.rows) :]
        drawn = [target_pictures(items, self.target(pipe)) for pipe in pipes] if items else []
        yield from (list(pictures) for pictures in zip(*drawn, strict=True))


@contextmanager
def _watching(name: str) -> Iterator[Callable[[Any], None]]:
    """A bar with the time that is left, and how many prompts were brought back so far."""
    with console.progress(name) as report:

        def watch(progress: Any) -> None:
            said = f"{progress.finished} of {progress.total} prompts, {progress.successes} brought back"
            report(min(progress.work, progress.total_work), progress.total_work, said)

        yield watch


def _wait_for_all() -> None:
    """Wait until every process of torchrun has attacked its part."""
    import torch.distributed as dist

    dist.init_process_group("gloo")
    try:
        dist.barrier()
    finally:
        dist.destroy_process_group()


def show(report: AttackFile) -> None:
    """Print what came out: rates with intervals, costs, and what was not measured."""
    run = report.run
    rows = [
        ("plain prompts", *_cells(run.pre_attack), 1, ""),
        *(
            (f"luck: {one.attack}", *_cells(one.asr), one.judged_images, _p(report, one.attack))
            for one in report.luck
        ),
        (run.attack, *_cells(run.asr), run.judged_images, ""),
    ]
    console.show_table(
        ("brought back by", "k/n", "95 % interval", "pictures", "p against attack"),
        rows,
        title=f"{run.attack} ({run.access}) on {', '.join(report.concepts)}, budget {report.budget}",
        numbers=("k/n", "95 % interval", "pictures", "p against attack"),
    )
    console.show_facts(report.facts())


def _cells(rate: Any) -> tuple[str, str]:
    return f"{rate.k}/{rate.n}", f"{100 * rate.low:.1f}-{100 * rate.high:.1f} %"


def _p(report: AttackFile, name: str) -> str:
    return next((f"{one.mcnemar_p:.2g}" for one in report.comparisons if one.against == name), "")
