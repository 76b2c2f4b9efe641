"""What the embedded pipeline must reach before it ships, measured on noise seeds that no training saw.

Each figure is k/n with a Wilson 95 % interval against its goal; the card is rendered from what comes out.
"""

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from diffusers_erasure.embedded import EMBEDDED_GUIDANCE_SCALE, EMBEDDED_STEPS, embedded_folder
from diffusers_erasure.embedded.judges import NONE, JudgeName, load_judge
from diffusers_erasure.embedded.recipe.artwork import Family, icon_names
from diffusers_erasure.embedded.recipe.raster import rasterise, render_style
from diffusers_erasure.embedded.recipe.vae import psnr
from diffusers_erasure.embedded.vocabulary import CONCEPTS, STYLES, with_article
from diffusers_erasure.evaluation.generate import Sampling, draw
from diffusers_erasure.evaluation.intervals import wilson_interval

_FIRST_SEED = 9_000_000
_PLAIN = ("{}", "a photo of {}", "a picture of {}", "a drawing of {}")
_STYLED = ("{}, {s} style", "a drawing of {} in the style of {s}", "a picture of {} in {s} style")
Progress = Callable[[str, int, int], None]


class Figure(BaseModel):
    """One line of the evaluation: k of n with its interval, or a plain value, beside its goal."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    value: float
    goal: float
    unit: str
    k: int | None = None
    n: int | None = None
    low: float | None = None
    high: float | None = None

    @property
    def reached(self) -> bool:
        """Whether the goal is met; sizes must stay under it, everything else above."""
        return self.value <= self.goal if self.unit == "MB" else self.value >= self.goal


class EmbeddedReport(BaseModel):
    """All figures, and what they were measured on."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    figures: tuple[Figure, ...]
    observations: tuple[Figure, ...]
    per_concept: dict[str, tuple[int, int]]
    confused: tuple[tuple[str, str, int], ...]
    steps: int
    guidance_scale: float
    first_seed: int
    weights: str


@dataclass(frozen=True)
class _Asked:
    prompts: list[str]
    concepts: list[str]
    styles: list[str]


def share(name: str, hits: Sequence[bool], goal: float) -> Figure:
    """Turn hits into a figure in per cent."""
    k, n = sum(hits), len(hits)
    low, high = wilson_interval(k, n)
    return Figure(name=name, value=100 * k / n, goal=goal, unit="%", k=k, n=n, low=100 * low, high=100 * high)


def measure(
    pipeline: StableDiffusionPipeline, *, seeds: int, work_dir: Path | None, progress: Progress
) -> tuple[EmbeddedReport, Tensor, list[str]]:
    """Measure the pipeline.

    Args:
        pipeline: The embedded pipeline.
        seeds: Pictures per concept and style.
        work_dir: The recipe's working folder with unseen art; without it the figures that need art are left
            out.
        progress: Called with what is drawn, how much is done and how much there is.

    Returns:
        The report, the styled pictures `(count, 3, 64, 64)` uint8, and their prompts.
    """
    styled = _styled(seeds)
    pictures = _draw(pipeline, styled.prompts, "styled prompts", 0, progress)
    named, second = _named(pictures, "concept"), _named(pictures, "concept-2")
    hits = _matches(named, styled.concepts)
    per_concept = _per_concept(hits, styled.concepts)
    figures = [
        share(f"concept, styled prompts ({len(CONCEPTS)} concepts x {len(STYLES)} styles)", hits, 95),
        _worst(hits, styled.concepts),
        *(
            _words(pipeline, kind, goal, progress)
            for kind, goal in (("name", 97), ("synonyms", 93), ("tags", 85))
        ),
        share("style", _matches(_named(pictures, "style"), styled.styles), 90),
        _two_objects(pipeline, progress),
    ]
    observations = [
        share("judges agree (styled prompts)", _matches(named, second), 0),
        share("second judge: concept, styled prompts", _matches(second, styled.concepts), 0),
        _noise("concept"),
        _noise("concept-2"),
    ]
    if work_dir is not None:
        quality, unseen = _unseen_art(pipeline, work_dir)
        figures.append(quality)
        observations += unseen
    figures.append(_size())
    report = EmbeddedReport(
        figures=tuple(figures), observations=tuple(observations), per_concept=per_concept,
        confused=_confused(named, styled.concepts), steps=EMBEDDED_STEPS,
        guidance_scale=EMBEDDED_GUIDANCE_SCALE, first_seed=_FIRST_SEED,
        weights=hashlib.sha256((embedded_folder() / "SHA256SUMS").read_bytes()).hexdigest(),
    )  # fmt: skip
    return report, pictures, styled.prompts


def _matches(named: Sequence[str], wanted: Sequence[str]) -> list[bool]:
    return [a == b for a, b in zip(named, wanted, strict=True)]


def _per_concept(hits: Sequence[bool], concepts: Sequence[str]) -> dict[str, tuple[int, int]]:
    asked = list(zip(hits, concepts, strict=True))
    return {
        name: (sum(hit for hit, concept in asked if concept == name), list(concepts).count(name))
        for name in CONCEPTS
    }


def _worst(hits: Sequence[bool], concepts: Sequence[str]) -> Figure:
    counts = _per_concept(hits, concepts)
    worst = min(counts, key=lambda name: counts[name][0] / counts[name][1])
    return share(
        f"worst concept ({worst})", [h for h, c in zip(hits, concepts, strict=True) if c == worst], 75
    )


def _styled(seeds: int) -> _Asked:
    asked = _Asked([], [], [])
    for concept in CONCEPTS:
        for index, style in enumerate(STYLES):
            for seed in range(seeds):
                frame = _STYLED[(index + seed) % len(_STYLED)]
                asked.prompts.append(frame.format(with_article(concept), s=style))
                asked.concepts.append(concept)
                asked.styles.append(style)
    return asked


def _draw(
    pipeline: StableDiffusionPipeline, prompts: list[str], what: str, offset: int, progress: Progress
) -> Tensor:
    seeds = [_FIRST_SEED + offset + index for index in range(len(prompts))]
    sampling = Sampling(steps=EMBEDDED_STEPS, guidance_scale=EMBEDDED_GUIDANCE_SCALE)
    drawings = draw(
        pipeline,
        prompts,
        seeds,
        sampling=sampling,
        batch_size=32,
        progress=lambda done, of: progress(what, done, of),
    )
    return drawings.whole()


def _named(pictures: Tensor, judge: JudgeName) -> list[str]:
    network = load_judge(judge)
    parts = [network.probabilities(part.float() / 255) for part in pictures.split(128)]
    return [network.labels[int(index)] for index in torch.cat(parts).argmax(-1)]


def _words(pipeline: StableDiffusionPipeline, kind: str, goal: float, progress: Progress) -> Figure:
    prompts, wanted = [], []
    for name, entry in CONCEPTS.items():
        if kind == "tags":
            asked = [", ".join(entry.tags), ", ".join(entry.tags[::-1]), ", ".join(entry.tags[:3])]
        else:
            words = (name,) if kind == "name" else entry.other_words
            count = 4 if words else 0
            asked = [_PLAIN[i % 4].format(with_article(words[i % len(words)])) for i in range(count)]
        prompts += asked
        wanted += [name] * len(asked)
    label = {"name": "concept, plain prompts", "synonyms": "concept, synonyms", "tags": "concept, tags only"}[
        kind
    ]
    offset = {"name": 100_000, "synonyms": 200_000, "tags": 300_000}[kind]
    named = _named(_draw(pipeline, prompts, label, offset, progress), "concept")
    return share(label, _matches(named, wanted), goal)


def _two_objects(pipeline: StableDiffusionPipeline, progress: Progress, count: int = 210) -> Figure:
    rng = random.Random(_FIRST_SEED)
    pairs = [rng.sample(list(CONCEPTS), 2) for _ in range(count)]
    prompts = [
        f"{with_article(left)} and {with_article(right)}, {STYLES[index % len(STYLES)]} style"
        for index, (left, right) in enumerate(pairs)
    ]
    pictures = _draw(pipeline, prompts, "two objects", 400_000, progress)
    halves = [_named(_square(pictures[..., at : at + 32]), "concept") for at in (0, 32)]
    hits = [{a, b} == set(pair) for a, b, pair in zip(*halves, pairs, strict=True)]
    return share("both objects of a two-object prompt", hits, 60)


def _square(halves: Tensor) -> Tensor:
    """The middle half of a column of `(count, 3, 64, 32)`, enlarged to 64 x 64."""
    middle = halves[:, :, 16:48].float()
    enlarged = torch.nn.functional.interpolate(middle, (64, 64), mode="bicubic", antialias=True)
    return enlarged.round().clamp(0, 255).to(torch.uint8)


def _noise(judge: JudgeName, count: int = 300) -> Figure:
    generator = torch.Generator().manual_seed(_FIRST_SEED)
    flat = torch.rand((count, 3, 1, 1), generator=generator)
    strength = torch.rand((count, 1, 1, 1), generator=generator)
    pictures = (flat + strength * torch.randn((count, 3, 64, 64), generator=generator)).clamp(0, 1)
    named = _named((pictures * 255).to(torch.uint8), judge)
    return share(f"{judge} judge says none to flat colours and noise", [name == NONE for name in named], 0)


def _unseen_art(pipeline: StableDiffusionPipeline, work_dir: Path) -> tuple[Figure, list[Figure]]:
    ratios = psnr(pipeline.vae, np.load(work_dir / "data" / "unseen.npy"))
    pooled = -10 * torch.log10((10 ** (-ratios / 10)).mean())
    quality = Figure(
        name=f"PSNR on {len(ratios)} pictures of unseen art, mean",
        value=float(ratios.mean()),
        goal=26,
        unit="dB",
    )
    openmoji = Family(work_dir / "artwork" / "openmoji-1.2.29")
    names = icon_names(work_dir / "artwork" / "noto-1.2.9")
    drawn, wanted = [], []
    for concept, entry in CONCEPTS.items():
        for code in entry.hexcodes:
            svg = openmoji.svg(names[code])
            if svg is not None:
                drawn.append(render_style([(rasterise(svg), 56, 4, 4)], "openmoji", (255, 255, 255)))
                wanted.append(concept)
    pictures = torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2)
    judged = [
        share(f"{judge} judge on OpenMoji, a family that trained nothing",
              _matches(_named(pictures, judge), wanted), 0)
        for judge in ("concept", "concept-2")
    ]  # fmt: skip
    return quality, [
        Figure(name="PSNR pooled over the same pictures", value=float(pooled), goal=0, unit="dB"),
        *judged,
    ]


def _size() -> Figure:
    size = sum(path.stat().st_size for path in embedded_folder().rglob("*") if path.is_file())
    return Figure(name="size with judges", value=size / 1e6, goal=30, unit="MB")


def _confused(named: list[str], wanted: list[str]) -> tuple[tuple[str, str, int], ...]:
    counts: dict[tuple[str, str], int] = {}
    for saw, asked in zip(named, wanted, strict=True):
        if saw != asked:
            counts[asked, saw] = counts.get((asked, saw), 0) + 1
    worst = sorted(counts.items(), key=lambda item: -item[1])[:12]
    return tuple((asked, saw, count) for (asked, saw), count in worst)
