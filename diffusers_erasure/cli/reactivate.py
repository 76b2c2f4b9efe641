"""Measure what brings an erased concept back: fine-tuning, merging, rounding, image inputs.

diffusers-erasure reactivate outputs/church-uce
diffusers-erasure reactivate outputs/church-uce --preset full --with concept-inversion --attach
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from diffusers_erasure.concepts import ConceptKind
from diffusers_erasure.errors import ConfigError

from .attacking import Scene, asked_prompts
from .console import note, out, say
from .device import Device, compute_device
from .drawing import choose_sampling, progress_display
from .flags import otherwise, read_flags
from .known_concepts import check_concepts, judged_by_embedded
from .opening import results_folder

if TYPE_CHECKING:
    from diffusers_erasure.artifacts.artifact import Artifact
    from diffusers_erasure.attacks.reactivation import FineTuningConfig
    from diffusers_erasure.evaluation.attack_groups import Group
    from diffusers_erasure.evaluation.reactivation import Preset, ReactivationSettings
    from diffusers_erasure.evaluation.subject import Subject

EXIT_INVALID = 1
"""Exit code when a report was written but its verdict is not "measured"."""


@dataclass(frozen=True)
class ReactivateArguments:
    """Measure what brings an erased concept back."""

    artifact: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ARTIFACT")]
    """Folder or Hub id of the artifact."""
    preset: Literal["quick", "full"] = "quick"
    """quick: 20 pictures per item, fine-tuning for 10 and 100 steps on 16 pictures, concept inversion (if
    asked for) of 300 steps; full: 100 pictures, 10, 100 and 1,000 steps on 64 pictures, 5,000 steps."""
    items: Annotated[str, otherwise("all but concept inversion")] = ""
    """Items to try, with commas between them; families such as lora or img2img are several."""
    with_: Annotated[str, tyro.conf.arg(name="with", help_behavior_hint="(default: none)")] = ""
    """Items beside the others: concept-inversion, which is run if no report of it lies there."""
    steps: Annotated[str, otherwise("the preset's")] = ""
    """Steps of fine-tuning after which pictures are drawn, such as 10,100,1000."""
    n: int | None = None
    """Pictures per item; the preset's unless given."""
    output_dir: Path | None = None
    """Gets reactivation.json and reactivation.png; outputs/reactivations/<artifact>-<digest> unless given."""
    work_dir: Path | None = None
    """Where finished pictures and items are kept; output_dir unless given."""
    attack_report: Path | None = None
    """attack.json or evaluation.json in which concept inversion stands; the artifact's folder and output_dir
    are looked through unless given."""
    pretrained_model_name_or_path: str | None = None
    """Base model; the one that the artifact names unless given."""
    judge: str = "embedded"
    """Family of the judge, with its labels behind a #."""
    concept_kind: ConceptKind | None = None
    """Kind of concepts that the vocabulary does not know; object unless given."""
    pictures: int | None = None
    """Pictures that fine-tuning learns from; the preset's unless given."""
    learning_rate: float | None = None
    """Learning rate of full fine-tuning; 1e-4 unless given."""
    lora_learning_rate: float | None = None
    """Learning rate of LoRA fine-tuning; 1e-4 unless given."""
    rank: int | None = None
    """Rank of the LoRA; 4 unless given."""
    train_text_encoder: bool = False
    """Full fine-tuning changes the text encoder too."""
    seed: int = 0
    """Seed of fine-tuning."""
    first_seed: int = 900_000_000
    """Seeds of the pictures start here."""
    num_inference_steps: int | None = None
    """Sampling steps; what suits the base model unless given."""
    guidance_scale: float | None = None
    """Classifier-free guidance; what suits the base model unless given."""
    batch_size: int = 10
    """Pictures drawn together; changes speed, not pictures."""
    attach: bool = False
    """Put report and picture into the artifact's folder too."""
    device: Device = ""
    """where to compute: cuda, mps, cpu"""


def main(argv: Sequence[str]) -> int:
    """Run `diffusers-erasure reactivate`."""
    arguments = read_flags(ReactivateArguments, argv, "diffusers-erasure reactivate")
    if arguments.attach and not Path(arguments.artifact).is_dir():
        raise ConfigError(
            f"--attach was given for {arguments.artifact!r}, which is no folder here; expected the folder "
            "of a saved artifact; download it first, or leave --attach out"
        )
    if judged_by_embedded(arguments.judge):
        check_concepts(
            arguments.artifact,
            instead=f"diffusers-erasure reactivate {arguments.artifact} --judge FAMILY:ID",
            kind=arguments.concept_kind,
        )
    return _reactivate(replace(arguments, device=compute_device(arguments.device)))


def _reactivate(arguments: ReactivateArguments) -> int:
    from diffusers_erasure.artifacts.door import load_artifact
    from diffusers_erasure.evaluation.reactivation import PRESETS, reactivate
    from diffusers_erasure.evaluation.reactivation_report import GRID_NAME, REPORT_NAME
    from diffusers_erasure.evaluation.reactivation_tables import reactivation_table
    from diffusers_erasure.evaluation.records import Verdict

    preset = PRESETS[arguments.preset]
    artifact = load_artifact(arguments.artifact)
    folder = arguments.output_dir or results_folder("reactivations", arguments.artifact, artifact.digest)
    settings = _settings(arguments, preset, folder, artifact.manifest.base.id)
    note(f"finished items are kept in {arguments.work_dir or folder}; an interrupted run goes on from there")
    with progress_display() as report:
        subject, scene = _open(arguments, artifact)
        groups = _groups(arguments, scene, preset)
        found = reactivate(
            subject,
            groups,
            scene.concepts,
            settings=settings,
            output_dir=folder,
            work_dir=arguments.work_dir,
            progress=report,
        )
    out().print(reactivation_table(found.report))
    if arguments.attach:
        attach_reactivation(Path(arguments.artifact), folder)
    for file in (REPORT_NAME, GRID_NAME):
        say(f"wrote {folder / file}")
    return 0 if found.report.verdict is Verdict.MEASURED else EXIT_INVALID


def _settings(
    arguments: ReactivateArguments, preset: Preset, folder: Path, base: str
) -> ReactivationSettings:
    from diffusers_erasure.evaluation.reactivation import ReactivationSettings
    from diffusers_erasure.evaluation.reactivation_inversion import reports_in
    from diffusers_erasure.evaluation.reactivation_items import INVERSION, all_items, choose_items

    steps = _whole_numbers(arguments.steps) or preset.steps
    beside = _words(arguments.with_)
    if set(beside) - {INVERSION, INVERSION.replace("-", "_")}:
        raise ConfigError(
            f"--with {arguments.with_!r} is nothing that stands beside the items; expected {INVERSION}; name "
            "other items with --items"
        )
    chosen = choose_items(_words(arguments.items), steps)
    given = arguments.attack_report
    model = arguments.pretrained_model_name_or_path or base
    return ReactivationSettings(
        items=tuple(
            item for item in all_items(steps) if item in chosen or (beside and item.family == INVERSION)
        ),
        first_seed=arguments.first_seed,
        sampling=choose_sampling(model, arguments.num_inference_steps, arguments.guidance_scale),
        batch_size=arguments.batch_size,
        fine_tuning=_fine_tuning(arguments, preset),
        inversion=preset.inversion,
        inversion_reports=reports_in([Path(arguments.artifact), folder]) if given is None else (given,),
        preset=arguments.preset,
    )


def _fine_tuning(arguments: ReactivateArguments, preset: Preset) -> FineTuningConfig:
    from diffusers_erasure.attacks.reactivation import FineTuningConfig

    given: dict[str, Any] = {
        "pictures": preset.pictures if arguments.pictures is None else arguments.pictures,
        "learning_rate": arguments.learning_rate,
        "lora_learning_rate": arguments.lora_learning_rate,
        "rank": arguments.rank,
        "train_text_encoder": arguments.train_text_encoder,
        "seed": arguments.seed,
    }
    return FineTuningConfig.parse({name: value for name, value in given.items() if value is not None})


def _open(arguments: ReactivateArguments, artifact: Artifact) -> tuple[Subject, Scene]:
    """The base beside its erased twin."""
    from diffusers_erasure.artifacts.apply import load_erasure
    from diffusers_erasure.concepts import resolve_concepts
    from diffusers_erasure.evaluation.subject import Subject, sibling
    from diffusers_erasure.pipelines.base import load_base_pipeline

    model = arguments.pretrained_model_name_or_path or artifact.manifest.base.id
    base = load_base_pipeline(model).to(arguments.device)
    erased = sibling(base)
    load_erasure(erased, artifact)
    concepts = resolve_concepts(artifact.manifest.concept_names, kind=arguments.concept_kind)
    return Subject(base, erased, artifact, model), Scene(erased, base, model, artifact.digest, concepts)


def _groups(arguments: ReactivateArguments, scene: Scene, preset: Preset) -> tuple[Group, ...]:
    """The concept's own name with the question that is asked about it."""
    from diffusers_erasure.evaluation.attack_groups import DeclaredQuestion, Group
    from diffusers_erasure.evaluation.judges import load_panel
    from diffusers_erasure.evaluation.prompt_sets import JudgeRole

    panel = load_panel(arguments.judge, device=arguments.device)
    asked = asked_prompts(
        scene,
        panel,
        judge=arguments.judge,
        n=preset.n if arguments.n is None else arguments.n,
        first_seed=arguments.first_seed,
        prompt_file=None,
    )
    return tuple(
        Group(one.items, DeclaredQuestion(one.question.judge, one.question.labels), None, JudgeRole.CONCEPT)
        for one in asked
    )


def attach_reactivation(artifact: Path, results: Path) -> None:
    """Copy report and picture into the folder of an artifact."""
    from diffusers_erasure.artifacts.store import attach_file
    from diffusers_erasure.evaluation.reactivation_report import GRID_NAME, REPORT_NAME

    for name in (GRID_NAME, REPORT_NAME):
        attach_file(artifact, name, (results / name).read_bytes())


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _whole_numbers(text: str) -> tuple[int, ...]:
    words = _words(text)
    if not all(word.isdigit() for word in words):
        raise ConfigError(
            f"--steps {text!r} are no numbers of steps; expected rising whole numbers with commas between "
            "them, such as 10,100,1000; correct them"
        )
    return tuple(int(word) for word in words)
