"""Set every method, concept and attack side by side, and write the page that says which to use.

    diffusers-erasure bench --profile short
    diffusers-erasure bench --profile full --list
    diffusers-erasure bench --profile full --jobs 2
    diffusers-erasure bench --profile full --report --output_dir docs/benchmark

    diffusers-erasure bench --profile full --known docs/benchmark/benchmark.json

What is finished is kept: a run that was stopped or failed goes on where it was, and profiles share what they
have in common. Any number of processes may work on one --work_dir; machines without a common folder hand each
other their benchmark.json by --known.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from diffusers_erasure.benchmark.cells import Cell, cells, check_work_folder
from diffusers_erasure.benchmark.profiles import PROFILES, Profile, profile
from diffusers_erasure.errors import ConfigError

from . import console
from .flags import otherwise, read_flags

if TYPE_CHECKING:
    from diffusers_erasure.benchmark.earlier import Earlier
    from diffusers_erasure.benchmark.stored import Stored

PROGRAM = "diffusers-erasure bench"
EXIT_FAILED = 1
"""Exit code when a cell failed."""
JOBS = 4
"""Most cells at a time unless more are asked for: each takes about a gigabyte."""


@dataclass(frozen=True)
class BenchArguments:
    """Set every method, concept and attack side by side."""

    profile: str = "short"
    """What to set side by side: short, full, advunlearn, trce, aegis and their parts; --list shows it."""
    work_dir: Path | None = None
    """Where the cells lie; the profile's own folder under runs/ unless given."""
    output_dir: Path | None = None
    """Gets the page, its pictures and benchmark.json; report-<profile> in work_dir unless given."""
    jobs: Annotated[int, otherwise(f"one for each processor core, at most {JOBS}")] = 0
    """Cells at a time."""
    shard: Annotated[str, otherwise("all of it")] = ""
    """Begin with part i of n, as i/n from 0 on, and help with the others when it is done."""
    concepts: Annotated[tuple[str, ...], otherwise("all")] = ()
    """Only these concepts of the profile."""
    methods: Annotated[tuple[str, ...], otherwise("all")] = ()
    """Only these variants of the profile, as --list calls them."""
    seeds: Annotated[tuple[int, ...], otherwise("all")] = ()
    """Only these training seeds of the profile."""
    attacks: Annotated[tuple[str, ...], otherwise("all")] = ()
    """Only these attacks of the profile."""
    list: bool = False
    """Only print the profiles, this one's cells and their commands."""
    report: bool = False
    """Only write the page of what is finished."""
    stored: Path | None = None
    """Write the page from this benchmark.json, without any runs."""
    known: Annotated[tuple[Path, ...], otherwise("none")] = ()
    """benchmark.json of earlier runs or other machines: what it holds is not run again, but is shown."""


def main(argv: Sequence[str]) -> int:
    """Run `diffusers-erasure bench`."""
    arguments = read_flags(BenchArguments, argv, PROGRAM)
    if arguments.stored is not None:
        from diffusers_erasure.benchmark.stored import read_stored

        _publish(read_stored(arguments.stored), arguments.output_dir or arguments.stored.parent)
        return 0
    from diffusers_erasure.benchmark.earlier import read_earlier

    chosen = profile(arguments.profile)
    work_dir = arguments.work_dir or chosen.folder
    earlier = read_earlier(arguments.known, chosen.prompts)
    every = earlier.known_to(
        cells(
            chosen,
            work_dir,
            concepts=arguments.concepts,
            seeds=arguments.seeds,
            methods=arguments.methods,
            attacks=arguments.attacks,
        ),
        settings_of,
    )
    if arguments.list:
        _list(chosen, every)
        return 0
    code = 0 if arguments.report else _run(arguments, chosen, every, work_dir)
    if code in (0, EXIT_FAILED):
        _report(chosen, work_dir, earlier, arguments.output_dir or work_dir / f"report-{chosen.name}")
    return code


def _list(chosen: Profile, every: Sequence[Cell]) -> None:
    """Profiles, variants, and each cell's commands, finished or not."""
    console.show_table(
        ("profile", "cells", "what it is for"),
        [(one.name, len(cells(one, one.folder)), one.summary) for one in PROFILES.values()],
    )
    console.show_table(
        ("variant", "what it is"),
        [(one.slug, one.label) for one in chosen.variants],
        title=f"\n{chosen.name}, on {', '.join(chosen.concepts)}:",
    )
    for cell in every:
        done = sum(step.finished for step in cell.steps())
        console.say(f"\n{cell}: {done} of {len(list(cell.steps()))} steps finished, in {cell.folder}")
        for step in cell.steps():
            console.say(f"  diffusers-erasure {shlex.join(step.command)}")


def _run(arguments: BenchArguments, chosen: Profile, every: Sequence[Cell], work_dir: Path) -> int:
    """Run what is missing; 1 if a cell failed, 128 and the signal's number if one asked to stop."""
    from diffusers_erasure.benchmark.running import Runner, spread

    from .attacking import parse_shard

    check_work_folder(work_dir, chosen.prompts)
    shard, of = parse_shard(arguments.shard, {})
    runner = Runner(spread(every, shard, of), console.note, jobs=_jobs(arguments.jobs))
    missing = sum(not cell.finished for cell in every)
    console.note(f"{len(every) - missing} of {len(every)} cells are finished; {runner.jobs} at a time")
    asked = runner.run()
    for failure in runner.failures:
        console.warn(str(failure))
    if asked:
        console.note("stopped; what is finished is kept, and the same command goes on from there")
        return 128 + asked
    return EXIT_FAILED if runner.failures else 0


def _jobs(asked: int) -> int:
    """How many cells at a time.

    Raises:
        ConfigError: Fewer than none.
    """
    if asked < 0:
        raise ConfigError(
            f"--jobs {asked} cells at a time cannot be; expected 1 or more; leave it out for all cores"
        )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return asked or min(JOBS, cores)


def _report(chosen: Profile, work_dir: Path, earlier: Earlier, folder: Path) -> None:
    from diffusers_erasure.benchmark.gathering import gather

    further = [cell for name in chosen.sections for cell in cells(profile(name), work_dir)]
    every = cells(chosen, work_dir)
    _publish(gather(chosen, every, further, settings_of=settings_of, earlier=earlier), folder)


def settings_of(cell: Cell) -> Mapping[str, Any]:
    """The settings that a cell's training comes to and that its artifact records."""
    return _recorded(tuple(cell.variant.arguments(cell.concept, cell.seed)))


@cache
def _recorded(arguments: tuple[str, ...]) -> Mapping[str, Any]:
    from diffusers_erasure.training.registry import method

    from .train import parse

    config = parse(method(arguments[0]), arguments[1:])
    if isinstance(config, int):
        raise ConfigError(
            f"`train {shlex.join(arguments)}` is no command; expected one that trains; correct the variant"
        )
    return {name: record.value for name, record in config.records().items()}


def _publish(stored: Stored, folder: Path) -> None:
    """Write the page, and print its most important table."""
    from diffusers_erasure.benchmark.figures import Figures
    from diffusers_erasure.benchmark.page import write_page
    from diffusers_erasure.benchmark.shown import Shown
    from diffusers_erasure.benchmark.tables import summary_rows

    chosen = profile(stored.profile)
    written = write_page(stored, folder)
    shown = Shown(Figures.of(stored), chosen.variants, chosen.concepts, chosen.attacks)
    columns, rows = summary_rows(shown)
    console.show_table(columns, rows, title="prompts brought back", numbers=columns[1:])
    console.say(f"{stored.finished} of {stored.planned} cells are finished")
    for file in written:
        console.say(f"wrote {file}")
