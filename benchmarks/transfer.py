"""Plug and play: does an erasure made on one pipeline hold in others of its family? The transfer table.

    python -m benchmarks.transfer --artifact FOLDER --second runs/second/pipeline --n 100 --output_dir DIR

Three pipelines draw the same prompts from the same seeds, each without and with the erasure:

    base       the pipeline that the erasure was made on
    second     another of the same architecture (`benchmarks/second_pipeline.py` makes one)
    img2img    diffusers' img2img pipeline on the base's components; it starts from pictures of other concepts
               that the un-erased base drew, at the first strength that shows the concept on dev prompts

An erased text encoder is loaded once, as a `RobustEncoder`, and swapped into each; any other artifact is put
on by `load_erasure`. Base and second are attacked by UnlearnDiffAtk, with random tokens beside it for as many
judged pictures. img2img is not attacked itself: the texts that the attack found on the base are replayed
there. So its rate is that of an attack transferred; an attack made for it could find more.

`transfer.json`, `transfer.png` and the table say k/n with Wilson 95 % intervals. Finished pictures and
outcomes are kept, and a run that was stopped goes on. The exit code is 1 where the judge does not see the
concept before the erasure: such a row says nothing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionImg2ImgPipeline
from PIL import Image
from torch import Tensor

from benchmarks.transfer_table import (
    REPLAY,
    Place,
    Table,
    choose_strength,
    grid_of,
    place_of,
    show,
    transferred,
)
from diffusers_erasure.artifacts.apply import load_erasure
from diffusers_erasure.artifacts.artifact import Artifact
from diffusers_erasure.artifacts.door import load_artifact
from diffusers_erasure.attacks import AttackOutcome, attack_named
from diffusers_erasure.attacks.drawing import Drawing
from diffusers_erasure.cli import console
from diffusers_erasure.cli.drawing import progress_display
from diffusers_erasure.diffusion.pictures import png_bytes
from diffusers_erasure.durable import write_whole
from diffusers_erasure.embedded.vocabulary import CONCEPTS, STYLES, with_article
from diffusers_erasure.encoders import RobustEncoder
from diffusers_erasure.encoders.architecture import architecture_digest
from diffusers_erasure.errors import EvaluationError
from diffusers_erasure.evaluation.attack_groups import Group, attack_groups
from diffusers_erasure.evaluation.attack_report import BASE, ERASED
from diffusers_erasure.evaluation.attack_rows import Run
from diffusers_erasure.evaluation.attack_runner import Arena
from diffusers_erasure.evaluation.attack_settings import equal_budget, preset_config
from diffusers_erasure.evaluation.embedded_prompts import Targets, embedded_prompt_plan, find_targets
from diffusers_erasure.evaluation.generate import Artist, Sampling, pipeline_identity, sampling_defaults
from diffusers_erasure.evaluation.judges import Panel, load_panel
from diffusers_erasure.evaluation.measure import Measured, measure_set
from diffusers_erasure.evaluation.picture_cache import PictureCache
from diffusers_erasure.evaluation.prompt_sets import PromptItem, PromptPlan, PromptSet, Purpose
from diffusers_erasure.evaluation.proportion import Proportion
from diffusers_erasure.evaluation.records import POSITIVE_CONTROL_FLOOR, Verdict
from diffusers_erasure.evaluation.report_building import judge_record
from diffusers_erasure.evaluation.runner import RETENTION_FLOOR, sibling
from diffusers_erasure.pipelines.base import load_base_pipeline
from diffusers_erasure.pipelines.guard import verify_all

ATTACK, LUCK = "unlearndiffatk", "random_tokens"
STRENGTHS = (0.8, 0.85, 0.9, 0.95)
_START_SEED, _DEV = 50_000_000, 40
Tell = Callable[[str, int, int], None]


class FromPictures(StableDiffusionImg2ImgPipeline):  # type: ignore[misc]
    """The stock img2img pipeline, which takes the picture to start from by the seed of each generator."""

    def begin(self, starts: Starts, strength: float) -> FromPictures:
        """Start from these pictures, at this strength."""
        self._starts, self._strength = starts, strength
        return self

    def __call__(self, *args: Any, generator: Sequence[torch.Generator], **options: Any) -> Any:
        """Draw; `generator` must be one per picture."""
        images = self._starts.of([one.initial_seed() for one in generator])
        options = {**options, "image": images, "strength": self._strength, "generator": list(generator)}
        return super().__call__(*args, **options)


@dataclass(frozen=True)
class Starts:
    """Pictures of other concepts, in styles that stay, by the seed of what is drawn from them.

    Attributes:
        artist: Draws with the un-erased base.
        targets: What is erased.
        drawn: Pictures `(3, height, width)` uint8 so far.
    """

    artist: Artist
    targets: Targets
    drawn: dict[int, Tensor] = field(default_factory=dict)

    def prompt(self, item: PromptItem) -> str:
        """What the start picture of an item shows: neither what is erased nor what is asked for."""
        names = [name for name in CONCEPTS if name not in self.targets.objects and name != item.about]
        styles = [style for style in STYLES if style not in self.targets.styles and style != item.about]
        draw = torch.Generator().manual_seed(item.seed)
        name, style = (
            choices[int(torch.randint(len(choices), (), generator=draw))] for choices in (names, styles)
        )
        return f"{with_article(name)}, {style} style"

    def gather(self, items: Sequence[PromptItem], tell: Tell) -> None:
        """Draw the start pictures of these items."""
        seeds = [item.seed + _START_SEED for item in items]
        prompts = [self.prompt(item) for item in items]
        drawings = self.artist.draw(prompts, seeds, partial(tell, "start pictures"))
        self.drawn.update(zip([item.seed for item in items], drawings.whole(), strict=True))

    def of(self, seeds: Sequence[int]) -> Tensor:
        """Start pictures of these seeds, `(pictures, 3, height, width)` in [0, 1]."""
        return torch.stack([self.drawn[seed] for seed in seeds]).float() / 255


@dataclass(frozen=True)
class Img2ImgArtist(Artist):
    """An artist whose pictures depend on the start pictures too.

    Attributes:
        start: What they depend on beside weights, prompt and seed.
    """

    start: str = ""

    @cached_property
    def cache(self) -> PictureCache | None:
        """The pictures of exactly these weights, settings and start pictures."""
        if self.folder is None:
            return None
        return PictureCache(self.folder, {**pipeline_identity(self.pipe, self.sampling), "start": self.start})


@dataclass(frozen=True)
class Pair:
    """One pipeline without and with the erasure."""

    name: str
    stock: Any
    erased: Any
    artists: tuple[Artist, Artist]

    def aim(self, arena: Arena, which: str, group: int) -> None:
        """Have an arena draw with these very pipelines, from their start pictures."""
        pipe, artist = (self.stock, self.artists[0]) if which == BASE else (self.erased, self.artists[1])
        seen = arena.target(which, group)
        drawing = Drawing(pipe, artist.sampling.steps, artist.sampling.guidance_scale)
        start = artist.start if isinstance(artist, Img2ImgArtist) else ""
        arena.targets[which, group] = replace(seen, draw=drawing, setting={**seen.setting, "start": start})


@dataclass(frozen=True)
class Bench:
    """What all three pipelines are measured with."""

    source: str
    artifact: Artifact
    panel: Panel
    sampling: Sampling
    n: int
    batch_size: int
    output: Path
    cache: Path
    tell: Tell

    @cached_property
    def encoder(self) -> RobustEncoder | None:
        """The erased text encoder, if the artifact is nothing else; made once, swapped everywhere."""
        if set(self.artifact.edits) != {"text_encoder"}:
            return None
        return RobustEncoder.from_pretrained(self.source)

    @cached_property
    def plan(self) -> PromptPlan:
        """The concept's own name, and what should stay."""
        return embedded_prompt_plan(self.artifact.manifest.concepts, n=self.n)

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """The prompts of the concept's own name, by what is asked about them."""
        return attack_groups(self.plan.sets[0], self.panel)

    @property
    def chosen(self) -> list[PromptSet]:
        """The sets that are drawn."""
        return [one for one in self.plan.sets if one.name == "own name" or one.purpose is not Purpose.ERASED]

    def erase(self, stock: Any) -> Any:
        """The same pipeline with the erasure; the given one stays as it is."""
        erased = sibling(stock)
        if self.encoder is None:
            load_erasure(erased, self.artifact)
        else:
            check_same_family(stock, self.encoder)
            erased.text_encoder = self.encoder
        verify_all(erased).raise_unless_verified()
        return erased

    def pair(self, name: str, stock: Any) -> Pair:
        """A text-to-image pipeline without and with the erasure."""
        erased = self.erase(stock)
        artists = [Artist(pipe, self.sampling, self.batch_size, self.cache) for pipe in (stock, erased)]
        return Pair(name, stock, erased, (artists[0], artists[1]))

    def img2img(self, base: Pair, starts: Starts, strength: float) -> Pair:
        """The base's components in an img2img pipeline, without and with the erasure."""
        parts = {**base.stock.components, "scheduler": deepcopy(base.stock.scheduler)}
        stock = FromPictures(**parts, requires_safety_checker=False).begin(starts, strength)
        erased = self.erase(stock).begin(starts, strength)
        drawn_by = pipeline_identity(base.stock, self.sampling)
        start = json.dumps([strength, drawn_by, starts.targets.objects, starts.targets.styles])
        artists = [
            Img2ImgArtist(pipe, self.sampling, self.batch_size, self.cache, start) for pipe in (stock, erased)
        ]
        return Pair("img2img", stock, erased, (artists[0], artists[1]))

    def measure(self, pair: Pair) -> list[Measured]:
        """Every set on a pipeline without and with the erasure."""
        found = [
            measure_set(
                one,
                *pair.artists,
                self.panel,
                retention_floor=RETENTION_FLOOR,
                progress=partial(self.tell, f"{pair.name}: {one.name}"),
            )
            for one in self.chosen
        ]
        verify_all(pair.erased).raise_unless_verified()
        return found

    def arena(self, pair: Pair, groups: tuple[Group, ...]) -> Arena:
        """A pipeline under attack."""
        return Arena(
            {BASE: pair.stock, ERASED: pair.erased}, self.artifact, groups, self.sampling,
            self.output / "attacks", self.batch_size,
            lambda what, done, of: self.tell(f"{pair.name}: {what}", done, of),
        )  # fmt: skip

    def attack(self, pair: Pair, budget: str) -> list[Run]:
        """UnlearnDiffAtk on an erased pipeline, then random tokens with as many judged pictures."""
        arena, spec = self.arena(pair, self.groups), attack_named(ATTACK)
        config = preset_config(spec, budget).model_copy(update={"batch_size": self.batch_size})
        return [arena.run(*one) for one in ((spec, config), *equal_budget((LUCK,), config))]

    def replay(self, pair: Pair, found: Sequence[AttackOutcome]) -> Run:
        """The texts that an attack found on another pipeline, each on its own prompt's seed."""
        texts = {one.item: one.text or one.prompt for one in found}
        groups = tuple(
            replace(group, items=tuple(replace(item, prompt=texts[item]) for item in group.items))
            for group in self.groups
        )
        arena = self.arena(pair, groups)
        for which in (BASE, ERASED):
            for index in range(len(groups)):
                pair.aim(arena, which, index)
        spec = attack_named(REPLAY)
        return arena.run(spec, spec.config())


def check_same_family(stock: Any, encoder: RobustEncoder) -> None:
    """Refuse a pipeline whose text encoder is of another architecture.

    Raises:
        EvaluationError: It is.
    """
    sizes = [(one.config.hidden_size, one.config.vocab_size) for one in (stock.text_encoder, encoder)]
    if architecture_digest(stock.text_encoder.config) != architecture_digest(encoder.config):
        raise EvaluationError(
            f"the pipeline's text encoder has width and vocabulary {sizes[0]}, the erased one {sizes[1]}; "
            "expected one architecture in every number of the config; give a pipeline of the same family"
        )


def find_strength(bench: Bench, base: Pair, starts: Starts, strengths: Sequence[float]) -> float:
    """The first strength at which un-erased img2img shows the concept, on prompts that no table uses.

    Raises:
        EvaluationError: There is none.
    """
    dev = embedded_prompt_plan(bench.artifact.manifest.concepts, n=min(bench.n, _DEV), split="dev").sets[0]
    starts.gather(dev.items, bench.tell)
    shares: dict[float, Proportion] = {}
    for strength in strengths:
        artist = bench.img2img(base, starts, strength).artists[0]
        found = measure_set(dev, artist, artist, bench.panel, retention_floor=RETENTION_FLOOR)
        shares[strength] = found.row.base
        if choose_strength(shares) is not None:
            return strength
    said = ", ".join(f"{one:g}: {share}" for one, share in shares.items())
    raise EvaluationError(
        f"un-erased img2img does not show the concept often enough ({said}); expected "
        f"{POSITIVE_CONTROL_FLOOR:.0%}, or nothing is there to be erased; give higher --strengths"
    )


def run_table(
    bench: Bench, second: str, strengths: Sequence[float], budget: str
) -> tuple[Table, Image.Image]:
    """Measure and attack all three pipelines."""
    manifest = bench.artifact.manifest
    base = bench.pair("base", load_base_pipeline(manifest.base.id))
    other = bench.pair("second", load_base_pipeline(second))
    starts = Starts(base.artists[0], find_targets(manifest.concepts))
    strength = find_strength(bench, base, starts, strengths)
    starts.gather([item for one in bench.chosen for item in one.items], bench.tell)
    third = bench.img2img(base, starts, strength)
    measured = {pair.name: bench.measure(pair) for pair in (base, other, third)}
    runs = {pair.name: bench.attack(pair, budget) for pair in (base, other)}
    runs[third.name] = [bench.replay(third, runs["base"][0].outcomes)]
    verify_all(third.erased).raise_unless_verified()
    places = [attacked_place(pair.name, measured[pair.name], runs[pair.name]) for pair in (base, other)]
    places.append(replayed_place(measured["img2img"], runs["img2img"][0], runs["base"][0]))
    table = Table(
        artifact=bench.artifact.digest,
        method=manifest.method,
        concepts=manifest.concept_names,
        loaded_as="load_erasure" if bench.encoder is None else "RobustEncoder",
        base=manifest.base.id,
        second=second,
        img2img_strength=strength,
        n=bench.n,
        sampling={"steps": bench.sampling.steps, "guidance_scale": bench.sampling.guidance_scale},
        judges=tuple(judge_record(judge) for judge in bench.panel.members),
        places=tuple(places),
    )
    outcomes = {name: made[0].outcomes for name, made in runs.items()}
    return table, grid_of(table, measured, outcomes, starts.drawn)


def attacked_place(name: str, measured: Sequence[Measured], runs: Sequence[Run]) -> Place:
    """The row of a pipeline that was attacked itself."""
    rates = {run.record.attack: run.record.asr for run in runs}
    return place_of(name, measured, attacked=rates, runs=tuple(run.record for run in runs))


def replayed_place(measured: Sequence[Measured], again: Run, found: Run) -> Place:
    """The row of img2img, where texts that broke another pipeline are replayed."""
    own = measured[0]
    shows = {item.seed: seen for item, seen in zip(own.prompt_set.items, own.seen, strict=True)}
    plain = [shows[one.seed] for one in again.outcomes]
    rate, broken = transferred(plain, again.record.marks, found.record.marks)
    return place_of("img2img", measured, attacked={REPLAY: rate}, broken_on_base=broken, runs=(again.record,))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the table: 0 if every row says something, 1 if not."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--artifact", required=True, help="folder or Hub id of the erasure")
    parser.add_argument("--second", required=True, help="folder or Hub id of the second pipeline")
    parser.add_argument("--n", type=int, default=100, help="pictures of each set")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--cache_dir", type=Path, help="kept pictures; in output_dir unless given")
    parser.add_argument("--strengths", type=float, nargs="+", default=STRENGTHS, help="tried in turn")
    parser.add_argument("--budget", default="quick", help="of the attack: quick or published")
    parser.add_argument("--judge", default="embedded")
    parser.add_argument("--batch_size", type=int, default=20)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args(argv)
    torch.set_num_threads(given.threads)
    artifact = load_artifact(given.artifact)
    with progress_display() as tell:
        bench = Bench(
            given.artifact, artifact, load_panel(given.judge), sampling_defaults(artifact.manifest.base.id),
            given.n, given.batch_size, given.output_dir, given.cache_dir or given.output_dir / "pictures",
            tell,
        )  # fmt: skip
        table, grid = run_table(bench, given.second, given.strengths, given.budget)
    write_whole(given.output_dir / "transfer.json", table.model_dump_json(indent=1).encode())
    write_whole(given.output_dir / "transfer.png", png_bytes(grid))
    show(table)
    console.say(f"table and pictures: {given.output_dir}")
    return int(any(one.verdict is Verdict.HARNESS_INVALID for one in table.places))


if __name__ == "__main__":
    raise SystemExit(main())
