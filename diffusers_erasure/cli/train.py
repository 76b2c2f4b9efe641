"""Erase concepts from a text-to-image pipeline and save the artifact.

    diffusers-erasure train METHOD --concept church [--concept dog] [--output_dir DIR] [settings of the
    method]

Flags are the fields of the method's settings class, so a new method needs nothing here. Methods that are
trained by gradients also run under torchrun; the first process shows, saves and, with --push_to_hub, pushes.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tyro

from diffusers_erasure.artifacts.artifact import Artifact
from diffusers_erasure.artifacts.manifest import BaseModelRef
from diffusers_erasure.artifacts.store import check_target, save_artifact
from diffusers_erasure.diffusion.noise import OF_PROCESS
from diffusers_erasure.errors import ConfigError
from diffusers_erasure.settings import unknown_setting
from diffusers_erasure.training.callbacks import TRAINING_PHASE
from diffusers_erasure.training.config import TOKEN, Progress, TrainingConfig, without_token
from diffusers_erasure.training.registry import MethodSpec, method, methods
from diffusers_erasure.training.settings import TrainingSettings
from diffusers_erasure.training.stopping import TrainingStopped

from . import console, train_push
from .flags import read_known_flags, typed_values
from .training_numbers import shown_numbers

PROGRAM = "diffusers-erasure train"
DECIDES = ("preset", "pretrained_model_name_or_path", "concept_kind")
"""Settings that, with the concepts, decide the defaults of the others."""


def main(argv: Sequence[str]) -> int:
    """Train one method and save its artifact."""
    if not argv or argv[0] in ("-h", "--help"):
        _show_methods()
        return 0 if argv else 2
    spec = method(argv[0].replace("_", "-"))
    config = parse(spec, argv[1:])
    if isinstance(config, int):
        return config
    folder = config.output_dir or default_folder(config, spec)
    check_target(folder, overwrite=config.overwrite)
    train_push.check_flags(config, folder)
    train(spec, config.model_copy(update={"output_dir": folder}), folder)
    return 0


def _show_methods() -> None:
    """What `train --help` prints."""
    console.say(f"usage: {PROGRAM} METHOD --concept CONCEPT [OPTIONS]\n")
    console.say("Erase concepts from a text-to-image pipeline and save the artifact.\n")
    console.show_table(
        ("method", "what it does"),
        [(spec.name, spec.summary) for spec in methods().values()],
        title="methods:",
    )
    console.say(f"\n`{PROGRAM} METHOD --help` lists the settings of one method.")


def parse(spec: MethodSpec, argv: Sequence[str]) -> TrainingConfig | int:
    """Settings from flags, with `-` or `_`; an exit code where tyro has said all there is to say.

    Raises:
        ConfigError: A flag is unknown, or no concept is named.
    """
    helping = any(flag in ("-h", "--help") for flag in argv)
    if not helping and not any(flag.partition("=")[0] == "--concept" for flag in argv):
        raise ConfigError(
            f"no concept is named; {spec.name} needs at least one to erase; add --concept church, and repeat "
            f"the flag for more"
        )
    argv, token = _take_out(argv, TOKEN)  # what goes wrong below may be shown with all values
    alone = {name: next(iter(typed_values(argv, name)), None) for name in DECIDES}
    chosen = spec.config.with_preset({**alone, "concept": typed_values(argv, "concept")})
    try:
        config, unknown = read_known_flags(
            chosen,
            argv,
            f"{PROGRAM} {spec.name}",
            description=f"{spec.summary}.",
            config=(tyro.conf.UseAppendAction, tyro.conf.EnumChoicesFromValues),
        )
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 2
    if unknown:
        raise ConfigError(unknown_setting(unknown[0].partition("=")[0], tuple(spec.config.model_fields)))
    return spec.config.model_validate(without_token(config.model_dump())).with_token(token)


def _take_out(argv: Sequence[str], name: str) -> tuple[list[str], str | None]:
    """The flags without one of them, and the value of that one."""
    left, value, words = [], None, iter(argv)
    for word in words:
        key, equals, given = word.partition("=")
        if not key.startswith("--") or key[2:].replace("-", "_") != name:
            left.append(word)
            continue
        value = given if equals else next(words, None)
        if value is None:
            raise ConfigError(f"--{name} came without a value; expected a token; give one, or leave it out")
    return left, value


def default_folder(config: TrainingConfig, spec: MethodSpec) -> Path:
    """Where the artifact goes unless told: `outputs/church-dog-uce`."""
    words = "-".join("-".join(config.concepts.names).casefold().split())
    plain = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in words)
    return Path("outputs") / f"{plain.strip('.')[:100]}-{spec.name}"


def train(spec: MethodSpec, config: TrainingConfig, folder: Path) -> Artifact:
    """Load the base, train with a progress bar, save, and say what came of it."""
    from accelerate import PartialState  # type: ignore[import-untyped]

    processes = PartialState() if isinstance(config, TrainingSettings) else None
    first = processes is None or processes.is_main_process
    repo_id = train_push.target(config, folder) if first else None
    pipe = _load_base(config)
    if processes is not None:
        pipe.to(processes.device)
    numbers: dict[str, float] = {}
    taken_up: list[int] = []
    started = time.perf_counter()
    with console.progress(spec.name) as report:

        def show(progress: Progress) -> None:
            numbers.update(progress.values)
            if progress.phase == TRAINING_PHASE and not taken_up:
                taken_up.append(progress.done - 1)
            if first:
                report(progress.done, progress.total, _phase(progress))

        with saying_where_it_stops(first=first):
            artifact = spec.train(pipe, config, base=_base(config), progress=show)
    seconds = time.perf_counter() - started
    if first:
        written = save_artifact(artifact, folder, overwrite=config.overwrite)
        _summarise(spec, config, written, numbers, seconds, since=next(iter(taken_up), 0))
    if processes is not None and processes.num_processes > 1:
        processes.wait_for_everyone()
        processes.destroy_process_group()
    if repo_id is not None:
        train_push.push(config, folder, repo_id)
    return artifact


@contextmanager
def saying_where_it_stops(*, first: bool) -> Iterator[None]:
    """Tell whoever asked a run to stop where it goes on from."""
    try:
        yield
    except TrainingStopped as stopped:
        saved = "nothing was saved"
        if stopped.checkpoint is not None:
            saved = (
                f"saved {stopped.checkpoint}; the same command with --resume_from_checkpoint latest goes on "
                "from there"
            )
        if first:
            console.note(f"stopped at step {stopped.step}; {saved}")
        raise


def _load_base(config: TrainingConfig) -> Any:
    """The base model in the precision that the run wants, without the filter that nothing here asks."""
    import torch

    from diffusers_erasure.pipelines.base import load_base_pipeline

    stored = {name: getattr(torch, dtype) for name, dtype in config.stored_types.items()}
    return load_base_pipeline(
        config.pretrained_model_name_or_path,
        revision=config.revision,
        dtype={"default": torch.float32, **stored},
        cache_dir=config.cache_dir,
        local_files_only=config.local_files_only,
        safety_checker=None,
        requires_safety_checker=False,
    )


def _phase(progress: Progress) -> str:
    """What is done, with its numbers: `train  loss 0.0123  moved 0.0045  seconds per step 0.31`."""
    if progress.phase != TRAINING_PHASE:
        return progress.phase
    numbers = "  ".join(f"{name} {value:.4g}" for name, value in progress.values.items())
    return f"{progress.phase}  {numbers}"


def _base(config: TrainingConfig) -> BaseModelRef:
    """How the artifact names the base: the id, or a local folder's name (where it lies is private)."""
    name = config.pretrained_model_name_or_path
    local = Path(name)
    return BaseModelRef(id=local.resolve().name if local.is_dir() else name, revision=config.revision)


def _summarise(
    spec: MethodSpec,
    config: TrainingConfig,
    folder: Path,
    numbers: dict[str, float],
    seconds: float,
    *,
    since: int,
) -> None:
    """Say what came of the run; what it cost is told of this process alone, after the steps `since`."""
    facts: dict[str, object] = {
        "method": spec.name,
        "base model": config.pretrained_model_name_or_path,
        "concepts": ", ".join(
            f"{concept.name} → {concept.anchor or '(nothing)'}" if config.maps_to_anchor else concept.name
            for concept in config.concepts.leaves
        ),
    }
    facts.update(shown_numbers(numbers))
    part = f" since it was resumed at step {since}" if since else ""
    facts["seconds"] = f"{seconds:.2f}{part}"
    facts["UNet evaluations"] = f"{OF_PROCESS.forward}{part}"
    if sys.platform != "win32":
        facts["peak memory"] = f"{_peak_megabytes():.0f} MB"
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    facts["saved"] = f"{folder} ({size / 1e6:.2f} MB)"
    console.show_facts(facts)


def _peak_megabytes() -> float:
    """Most memory that this process has held; the kernel counts kilobytes, on macOS bytes."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)
