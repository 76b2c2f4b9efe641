"""The judge of the control "no invention": vocabulary, never learned concepts, and none of them.

Drawings of every concept in every style, at random places and on random backgrounds, half of them passed
through the autoencoder; beside them other art, whose names share no word with any concept, and mush. The
network, the loop and the artwork are those of the embedded pipeline's recipe.
"""

from __future__ import annotations

import hashlib
import json
import random
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from diffusers_erasure.artifacts.fingerprint import fingerprint
from diffusers_erasure.embedded.judges import NONE, ConvolutionJudge
from diffusers_erasure.embedded.recipe.artwork import Family
from diffusers_erasure.embedded.recipe.dataset import FAMILY_OF_STYLE, Glyphs, load_glyphs
from diffusers_erasure.embedded.recipe.loop import Schedule, World, train
from diffusers_erasure.embedded.recipe.raster import PICTURE, Pixels, rasterise, render_style
from diffusers_erasure.embedded.recipe.vae import decode, encode
from diffusers_erasure.embedded.vocabulary import COLOURS, CONCEPTS, STYLES
from diffusers_erasure.evaluation.judges.embedded import EmbeddedJudge
from diffusers_erasure.evaluation.proportion import Proportion

NEVER_LEARNED = {
    "whale": ("whale", "spouting-whale"),
    "octopus": ("octopus",),
    "helicopter": ("helicopter",),
    "watermelon": ("watermelon",),
    "pretzel": ("pretzel",),
    "anchor": ("anchor",),
    "rainbow": ("rainbow",),
    "teapot": ("teapot",),
    "ladder": ("ladder",),
    "snowflake": ("snowflake",),
}
"""Concepts outside the vocabulary, and the artwork's names for them: unlike each other, some near to what the
model knows (fish, airplane, pizza), some near to nothing."""
_VIEWS, _HELD_OUT_VIEWS, _OTHER_HELD_OUT = 8, 10, 20
_BATCH, _NONE, _MUSH = 32, 8, 4
_SCHEDULE = Schedule(steps=2400, learning_rate=3e-3, ema_decay=0.995, weight_decay=0.02)


class ControlJudge(nn.Module):
    """The recipe's convolutions with labels of their own."""

    def __init__(self, labels: tuple[str, ...]) -> None:
        super().__init__()
        self.labels = labels
        self.network = ConvolutionJudge(len(labels))

    def forward(self, images: Tensor) -> Tensor:
        """Logits `(batch, labels)` for images `(batch, 3, 64, 64)` in [0, 1]."""
        logits: Tensor = self.network(images * 2 - 1)
        return logits

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """What the head sees, `(batch, width)`."""
        return self.network.features(images.float() * 2 - 1)

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        """Probabilities `(batch, labels)`."""
        return F.softmax(self(images.float()), dim=-1)


@dataclass(frozen=True)
class Bank:
    """Pictures `(count, 64, 64, 3)`, the same passed through the autoencoder, and what they show."""

    pictures: Pixels
    decoded: Pixels
    names: tuple[str, ...]

    @classmethod
    def of(cls, drawn: Sequence[tuple[Pixels, str]], vae: Any) -> Bank:
        """Pass drawings through the autoencoder."""
        pictures = np.stack([picture for picture, _ in drawn])
        return cls(pictures, decode(vae, encode(vae, pictures)), tuple(name for _, name in drawn))


@dataclass(frozen=True)
class Studio:
    """Where drawings come from.

    Attributes:
        artwork: The unpacked package of each family.
    """

    artwork: Mapping[str, Path]

    @cached_property
    def families(self) -> dict[str, Family]:
        """The family of each style."""
        return {style: Family(self.artwork[FAMILY_OF_STYLE.get(style, style)]) for style in STYLES}

    @cached_property
    def glyphs(self) -> Glyphs:
        """Vocabulary and never learned concepts in every style."""
        glyphs = load_glyphs(dict(self.artwork))
        for style, family in self.families.items():
            for concept, icons in NEVER_LEARNED.items():
                found = [svg for icon in icons if (svg := family.svg(icon)) is not None]
                glyphs[concept, style] = [rasterise(svg) for svg in found]
        return glyphs

    def view(self, concept: str, style: str, rng: random.Random) -> Pixels:
        """A drawing at a random place, of a random size, on a random background."""
        return _view(rng.choice(self.glyphs[concept, style]), style, rng)

    def views(self, count: int, seed: int) -> Iterator[tuple[Pixels, str]]:
        """So many drawings of every concept in every style."""
        rng = random.Random(seed)
        for concept, style in self.glyphs:
            for _ in range(count):
                yield self.view(concept, style, rng), concept

    def other(self, *, held_out: bool, seed: int) -> Iterator[tuple[Pixels, str]]:
        """Art that shows no concept, once a style; one name in twenty is held out."""
        rng = random.Random(seed)
        said = [*NEVER_LEARNED, *(word for e in CONCEPTS.values() for word in (e.name, *e.synonyms))]
        words = {part.rstrip("s") for text in said for part in text.split()}
        for style, family in self.families.items():
            for icon in family.names:
                chosen = (zlib.crc32(icon.encode()) % _OTHER_HELD_OUT == 0) == held_out
                if not chosen or rng.random() < 0.5 or words & {part.rstrip("s") for part in icon.split("-")}:
                    continue
                svg = family.svg(icon)
                if svg is not None:
                    yield _view(rasterise(svg), style, rng), NONE


def _view(glyph: Image.Image, style: str, rng: random.Random) -> Pixels:
    size = rng.randint(50, 58)
    left, top = ((PICTURE - size) // 2 + rng.randint(-3, 3) for _ in range(2))
    return render_style([(glyph, size, left, top)], style, rng.choice(list(COLOURS.values())))


def train_judge(studio: Studio, vae: Any, *, folder: Path, note: Callable[[str], None]) -> ControlJudge:
    """Train the judge, go on with its training, or read it back."""
    labels = (*CONCEPTS, *NEVER_LEARNED, NONE)
    torch.manual_seed(0)
    judge = ControlJudge(labels)
    banks: list[tuple[Bank, list[Tensor]]] = []

    def step(_index: int, generator: torch.Generator) -> dict[str, Tensor]:
        if not banks:
            note("drawing what the judge learns from (some minutes)")
            bank = Bank.of([*studio.views(_VIEWS, 1), *studio.other(held_out=False, seed=2)], vae)
            none = torch.tensor([name == NONE for name in bank.names])
            banks.append((bank, [(~none).nonzero().flatten(), none.nonzero().flatten()]))
        bank, (shown, nothing) = banks[0]
        rows = torch.cat([_pick(shown, _BATCH, generator), _pick(nothing, _NONE, generator)])
        images = _some(bank, rows, generator)
        named = [labels.index(bank.names[row]) for row in rows.tolist()]
        images = torch.cat([images, mush(images[:_MUSH], images[_MUSH : 2 * _MUSH], generator)])
        wanted = torch.tensor([*named, *[labels.index(NONE)] * _MUSH])
        with torch.autocast("cpu", torch.bfloat16):
            logits = judge(_vary(images, generator))
        loss = F.cross_entropy(logits.float(), wanted, label_smoothing=0.02)
        return {"loss": loss, "accuracy": (logits.argmax(-1) == wanted).float().mean()}

    key = json.dumps([labels, STYLES, _VIEWS, vars(_SCHEDULE), fingerprint(vae)])
    home = folder / f"judge-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    train(judge, step, _SCHEDULE, folder=home, seed=21, world=World())
    return judge


def _pick(rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
    return rows[torch.randint(len(rows), (count,), generator=generator)]


def _some(bank: Bank, rows: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures of a bank in [0, 1], each with even odds as it was drawn or decoded."""
    which = torch.rand(len(rows), generator=generator) < 0.5
    chosen = np.where(which.numpy()[:, None, None, None], bank.pictures[rows], bank.decoded[rows])
    return torch.from_numpy(chosen).permute(0, 3, 1, 2).float() / 255


def mush(first: Tensor, second: Tensor, generator: torch.Generator) -> Tensor:
    """What shows nothing: blends of two pictures, coarse ones, and pictures in shuffled tiles.

    Args:
        first: `(count, 3, height, width)` in [0, 1].
        second: Other pictures of the same shape.
        generator: Chooses.
    """
    kind = int(torch.randint(3, (), generator=generator))
    size = first.shape[-1]
    if kind == 0:
        return F.avg_pool2d((first + second) / 2, 5, 1, 2, count_include_pad=False)
    if kind == 1:
        return F.interpolate(F.interpolate(first, (4, 4), mode="area"), (size, size), mode="bilinear")
    tiles = F.unfold(first, size // 4, stride=size // 4)
    order = torch.randperm(tiles.shape[-1], generator=generator)
    return F.fold(tiles[..., order], (size, size), size // 4, stride=size // 4)


def _vary(images: Tensor, generator: torch.Generator) -> Tensor:
    """Other contrast and shade, and now and then blur or noise."""
    kind, count = float(torch.rand((), generator=generator)), len(images)
    if kind < 0.25:
        images = F.avg_pool2d(images, 3, 1, 1, count_include_pad=False)
    elif kind > 0.75:
        images = images + 0.05 * torch.randn(images.shape, generator=generator)
    contrast = 0.85 + 0.3 * torch.rand((count, 1, 1, 1), generator=generator)
    shade = 0.1 * (2 * torch.rand((count, 3, 1, 1), generator=generator) - 1)
    return (images * contrast + shade).clamp(0, 1)


def to_uint8(pictures: Pixels) -> Tensor:
    """`(count, height, width, 3)` to `(count, 3, height, width)`."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).contiguous()


def held_out_accuracy(
    judge: EmbeddedJudge, studio: Studio, vae: Any, concepts: Collection[str]
) -> dict[str, Proportion]:
    """Per concept: decoded drawings at other places and on other backgrounds that the judge names.

    "none" counts held-out other art that is not called a never learned concept.
    """
    drawn = [one for one in studio.views(_HELD_OUT_VIEWS, 3) if one[1] in concepts]
    bank = Bank.of([*drawn, *studio.other(held_out=True, seed=4)], vae)
    said = judge.judge(to_uint8(bank.decoded)).names
    pairs = list(zip(bank.names, said, strict=True))
    right = {name: [answer == name for truth, answer in pairs if truth == name] for name in concepts}
    right[NONE] = [answer not in NEVER_LEARNED for truth, answer in pairs if truth == NONE]
    return {name: Proportion.of(sum(hits), len(hits)) for name, hits in right.items()}
