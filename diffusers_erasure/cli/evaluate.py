"""Measure what an artifact erases and what it keeps: k of n with intervals, as a table, a JSON and a grid.

diffusers-erasure evaluate outputs/church-uce --n 100
diffusers-erasure evaluate outputs/church-uce --attacks random-tokens,unlearndiffatk --budget quick
diffusers-erasure evaluate me/van-gogh-esd --prompts sets.csv --judge clip:openai/clip-vit-large-patch14
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from diffusers_erasure.errors import ConfigError

from .console import note, out, say
from .device import Device, compute_device
from .drawing import choose_sampling, progress_display
from .flags import otherwise, read_flags
from .known_concepts import check_concepts
from .opening import results_folder

if TYPE_CHECKING:
    from diffusers_erasure.evaluation.attack_settings import AttackSettings
    from diffusers_erasure.evaluation.generate import Sampling
    from diffusers_erasure.evaluation.metrics import Extractor
    from diffusers_erasure.evaluation.prompt_plan_file import PlanFile
    from diffusers_erasure.evaluation.report import EvaluationReport
    from diffusers_erasure.evaluation.runner import Evaluation

EXIT_INVALID = 1
"""Exit code when a report was written but its verdict is not "measured"."""


@dataclass(frozen=True)
class EvaluateArguments:
    """Measure what an artifact erases and what it keeps."""

    artifact: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ARTIFACT")]
    """Folder or Hub id of the artifact."""
    n: Annotated[int | None, otherwise("100, or each row of --prompts once")] = None
    """Pictures per prompt set, on the base and on the erased pipeline each."""
    output_dir: Path | None = None
    """Gets evaluation.json and grid.png; outputs/evaluations/<artifact>-<digest> unless given."""
    pretrained_model_name_or_path: str | None = None
    """Base model; the one that the artifact names unless given."""
    judge: str = "embedded"
    """Family of the judges, such as embedded or clip:FOLDER_OR_ID; #label only with --prompts."""
    prompts: Annotated[Path | None, otherwise("the embedded vocabulary's")] = None
    """csv or jsonl of prompt sets of your own: columns set, prompt, label, and if needed concept, seed."""
    retention_judge: Annotated[str | None, otherwise("--judge")] = None
    """Judge of what should stay, with --prompts; nudenet, say, can name none of it."""
    features: Annotated[str, otherwise("the judge's")] = ""
    """What compares the pictures with the base's: clip:FOLDER_OR_ID and the like."""
    first_seed: int = 900_000_000
    """Seeds of the pictures start here."""
    num_inference_steps: int | None = None
    """Sampling steps; what suits the base model unless given."""
    guidance_scale: float | None = None
    """Classifier-free guidance; what suits the base model unless given."""
    batch_size: int = 10
    """Pictures drawn together; changes speed, not pictures."""
    cache_dir: Path | None = None
    """Where finished pictures are kept; pictures/ in output_dir unless given."""
    attacks: Annotated[str, otherwise("none")] = ""
    """Attacks to run, with commas between them; `diffusers-erasure attack --help` names them."""
    budget: str = "quick"
    """Budget of each attack at 1x: quick, or published for that of its paper or code."""
    budget_factors: tuple[int, ...] = (1, 2, 4)
    """Multiples of the budget that each attack is run with; 2x shows whether 1x was enough."""
    attack_prompts: int | None = None
    """Attack only the first so many of the n prompts; all of them unless given."""
    attach: bool = False
    """Put report and grid into the artifact's folder too."""
    device: Device = ""
    """where to compute: cuda, mps, cpu"""


def main(argv: Sequence[str]) -> int:
    """Run `diffusers-erasure evaluate`."""
    arguments = read_flags(EvaluateArguments, argv, "diffusers-erasure evaluate")
    if arguments.attach and not Path(arguments.artifact).is_dir():
        raise ConfigError(
            f"--attach was given for {arguments.artifact!r}, which is no folder here; expected the folder "
            "of a saved artifact; download it first, or leave --attach out"
        )
    own = _own_prompts(arguments)
    return _evaluate(replace(arguments, device=compute_device(arguments.device)), own)


def _own_prompts(arguments: EvaluateArguments) -> PlanFile | None:
    """The user's prompt sets; a file that cannot be used, or the lack of one, is refused at once."""
    from diffusers_erasure.evaluation.asking import check_judges
    from diffusers_erasure.evaluation.prompt_plan_file import PlanFile

    check_judges(arguments.judge, arguments.retention_judge, own_prompts=arguments.prompts is not None)
    if arguments.prompts is None:
        source = arguments.artifact
        check_concepts(
            source, instead=f"diffusers-erasure evaluate {source} --prompts FILE --judge FAMILY:ID"
        )
        return None
    return PlanFile.read(arguments.prompts)


def _evaluate(arguments: EvaluateArguments, own: PlanFile | None) -> int:
    from diffusers_erasure.artifacts.door import load_artifact
    from diffusers_erasure.evaluation.report import Verdict
    from diffusers_erasure.evaluation.runner import EvaluationSettings, evaluate_artifact
    from diffusers_erasure.evaluation.tables import report_table

    attacks = _attacks(arguments)
    artifact = load_artifact(arguments.artifact)
    folder = arguments.output_dir or results_folder("evaluations", arguments.artifact, artifact.digest)
    note(f"finished pictures are kept in {folder}; an interrupted run goes on from there")
    with progress_display() as report:
        found = evaluate_artifact(
            artifact,
            output_dir=folder,
            base=arguments.pretrained_model_name_or_path,
            judge=arguments.judge,
            settings=EvaluationSettings(
                n=arguments.n,
                prompts=own,
                retention_judge=arguments.retention_judge,
                first_seed=arguments.first_seed,
                sampling=_sampling(arguments, artifact.manifest.base.id),
                batch_size=arguments.batch_size,
                attacks=attacks,
                extractor=_extractor(arguments),
            ),
            device=arguments.device,
            cache_dir=arguments.cache_dir,
            progress=report,
        )
    out().print(report_table(found.report))
    if arguments.attach:
        attach_evaluation(Path(arguments.artifact), found.folder, found.report)
    for file in _written(found):
        say(f"wrote {file}")
    return 0 if found.report.verdict is Verdict.MEASURED else EXIT_INVALID


def _attacks(arguments: EvaluateArguments) -> AttackSettings | None:
    """What to attack with; None if no attack was asked for."""
    from diffusers_erasure.evaluation.attack_settings import AttackSettings, parse_attacks

    names = parse_attacks(arguments.attacks)
    if not names:
        return None
    settings = AttackSettings(
        attacks=names,
        budget=arguments.budget,
        factors=arguments.budget_factors,
        prompts=arguments.attack_prompts,
    )
    settings.planned()
    return settings


def _extractor(arguments: EvaluateArguments) -> Extractor | None:
    """What was asked for to compare pictures with; None leaves it to the judge."""
    from diffusers_erasure.evaluation.metrics import load_extractor

    return load_extractor(arguments.features, device=arguments.device) if arguments.features else None


def _written(found: Evaluation) -> list[Path]:
    """The files of this evaluation, the pictures last."""
    from diffusers_erasure.evaluation.curves import plot_available
    from diffusers_erasure.evaluation.runner import GRID_NAME, OUTCOMES_NAME, PLOT_NAME, REPORT_NAME

    names = [REPORT_NAME]
    if found.attacked is not None:
        names += [OUTCOMES_NAME, *([PLOT_NAME] if plot_available() else [])]
    return [found.folder / name for name in (*names, GRID_NAME)]


def _sampling(arguments: EvaluateArguments, base: str) -> Sampling | None:
    """The sampling that was asked for; None leaves it to the base model's defaults."""
    steps, guidance_scale = arguments.num_inference_steps, arguments.guidance_scale
    if steps is None and guidance_scale is None:
        return None
    return choose_sampling(arguments.pretrained_model_name_or_path or base, steps, guidance_scale)


def attach_evaluation(artifact: Path, results: Path, report: EvaluationReport) -> None:
    """Copy report and grid into the folder of an artifact, and note the figures in its manifest."""
    from diffusers_erasure.artifacts.store import attach_file
    from diffusers_erasure.evaluation.attack_report import summary as attack_summary
    from diffusers_erasure.evaluation.runner import GRID_NAME, REPORT_NAME

    summary: dict[str, Any] = {
        "verdict": report.verdict.value,
        "attacks": attack_summary(report.attacks),
        "fidelity": _fidelity_summary(report),
        **{
            row.name: f"{row.erased.k}/{row.erased.n} (base {row.base.k}/{row.base.n})" for row in report.rows
        },
    }
    attach_file(artifact, GRID_NAME, (results / GRID_NAME).read_bytes())
    attach_file(artifact, REPORT_NAME, (results / REPORT_NAME).read_bytes(), evaluation=summary)


def _fidelity_summary(report: EvaluationReport) -> Any:
    """What stands of the fidelity in an artifact's manifest."""
    if isinstance(report.fidelity, str):
        return report.fidelity
    return {
        "features": report.fidelity.extractor,
        **{row.name: f"agreement {row.agreement}, KID {row.kid}" for row in report.fidelity.rows},
    }
