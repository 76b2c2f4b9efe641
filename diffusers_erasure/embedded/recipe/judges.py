"""Training of the judges (`embedded.judges`).

What a judge must not do is to find a concept in mush: beside every four pictures of concepts a concept judge
sees one that shows none. These are other emoji (whose name shares no word with the vocabulary), shuffled and
blended scenes, flat colours and noise. The style judge sees no blur, which would hide `pixel`.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from diffusers_erasure.embedded.judges import NONE, JudgeName, JudgeNetwork
from diffusers_erasure.embedded.recipe.dataset import Scenes
from diffusers_erasure.embedded.recipe.loop import Schedule, World, train
from diffusers_erasure.embedded.recipe.raster import Pixels

_BATCH = 32
_NONE_SHARE = 0.25
_SCHEDULES = {
    "concept": Schedule(steps=2200, learning_rate=3e-3, ema_decay=0.995, weight_decay=0.02),
    "concept-2": Schedule(steps=3600, learning_rate=1.5e-3, ema_decay=0.995, weight_decay=0.02),
    "style": Schedule(steps=2200, learning_rate=2e-3, ema_decay=0.995, weight_decay=0.02),
}
_SEEDS = {"concept": 11, "concept-2": 12, "style": 13}


def train_judge(
    name: JudgeName, scenes: Scenes, decoded: Scenes, other: Pixels, *, folder: Path, world: World
) -> JudgeNetwork:
    """Train one judge.

    Args:
        name: Which one.
        scenes: The pictures with one concept are used.
        decoded: Some of the scenes again, passed through the autoencoder; half of each batch.
        other: Emoji that show none of the vocabulary's concepts, `(count, 64, 64, 3)` uint8.
        folder: Of the run; checkpoints go to `folder/judge-<name>`.
        world: The processes.
    """
    torch.manual_seed(_SEEDS[name])
    judge = JudgeNetwork(name)
    banks = [_Bank.of(name, judge.labels, scenes), _Bank.of(name, judge.labels, decoded)]

    def step(_index: int, generator: torch.Generator) -> dict[str, Tensor]:
        halves = [bank.draw(_BATCH // 2, generator) for bank in banks]
        images, labels = torch.cat([half[0] for half in halves]), torch.cat([half[1] for half in halves])
        if name != "style":
            nothing = _nothing(images, other, int(_BATCH * _NONE_SHARE), generator)
            images = torch.cat([_roughen(images, generator), nothing])
            labels = torch.cat([labels, torch.full((len(nothing),), judge.labels.index(NONE))])
            images = _recolour(_shift(images, generator), generator)
        else:
            images = _nudge(images, generator)
        with torch.autocast("cpu", torch.bfloat16):
            logits = judge(images)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=0.02)
        return {"loss": loss, "accuracy": (logits.argmax(-1) == labels).float().mean()}

    trained = train(
        judge, step, _SCHEDULES[name], folder=folder / f"judge-{name}", seed=_SEEDS[name], world=world
    )
    if not isinstance(trained, JudgeNetwork):
        raise TypeError("the loop returns the network that it was given")
    return trained


@dataclass(frozen=True)
class _Bank:
    pictures: Pixels
    rows: NDArray[np.int64]
    labels: Tensor

    @classmethod
    def of(cls, name: JudgeName, labels: tuple[str, ...], scenes: Scenes) -> "_Bank":
        """Keep the scenes that the judge can label: one concept (the style judge: any number)."""
        fits = [
            index for index, scene in enumerate(scenes.scenes) if name == "style" or len(scene.concepts) == 1
        ]
        named = [
            scenes.scenes[index].style if name == "style" else scenes.scenes[index].concepts[0]
            for index in fits
        ]
        return cls(scenes.pictures, np.array(fits), torch.tensor([labels.index(label) for label in named]))

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        chosen = torch.randint(len(self.rows), (count,), generator=generator)
        return _unit(self.pictures[self.rows[chosen.numpy()]]), self.labels[chosen]


def _unit(pictures: Pixels) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 255


def _roughen(images: Tensor, generator: torch.Generator) -> Tensor:
    draw = float(torch.rand((), generator=generator))
    if draw < 0.25:
        small = F.interpolate(images, scale_factor=0.5, mode="bilinear", antialias=True)
        images = F.interpolate(small, size=images.shape[-2:], mode="bilinear")
    if draw > 0.6:
        images = images + 0.06 * torch.rand((), generator=generator) * torch.randn(
            images.shape, generator=generator
        )
    return images.clamp(0, 1)


def _nothing(images: Tensor, other: Pixels, count: int, generator: torch.Generator) -> Tensor:
    drawn = torch.randint(len(other), (count - count // 3,), generator=generator).numpy()
    return torch.cat([_unit(other[np.sort(drawn)]), *(_mush(images, generator) for _ in range(count // 3))])


def _mush(images: Tensor, generator: torch.Generator) -> Tensor:
    kind = int(torch.randint(5, (), generator=generator))
    first, second = images[torch.randint(len(images), (2,), generator=generator)]
    flat = torch.rand((3, 1, 1), generator=generator).expand_as(first)
    if kind == 0:
        return flat[None]
    if kind == 1:
        return (
            flat + 0.5 * torch.rand((), generator=generator) * torch.randn(first.shape, generator=generator)
        ).clamp(0, 1)[None]
    if kind == 2:
        return F.interpolate(
            F.interpolate(first[None], size=(4, 4), mode="area"), size=first.shape[-2:], mode="bilinear"
        )
    if kind == 3:
        tiles = (
            first.unfold(1, 16, 16)
            .unfold(2, 16, 16)
            .reshape(3, 16, 16, 16)[:, torch.randperm(16, generator=generator)]
        )
        shuffled: Tensor = tiles.reshape(3, 4, 4, 16, 16).permute(0, 1, 3, 2, 4).reshape(1, 3, 64, 64)
        return shuffled
    return F.avg_pool2d((0.5 * first + 0.5 * second)[None], 9, 1, 4, count_include_pad=False)


def _shift(images: Tensor, generator: torch.Generator) -> Tensor:
    count = len(images)
    scale = 0.9 + 0.3 * torch.rand(count, generator=generator)
    move = 0.12 * (2 * torch.rand((count, 2), generator=generator) - 1)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = scale
    theta[:, :, 2] = move
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _nudge(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift all pictures of a batch by whole pixels: colours and edges, which tell a style, stay exact."""
    down, right = (int(step) for step in torch.randint(-3, 4, (2,), generator=generator))
    padded = F.pad(images, (3, 3, 3, 3), mode="replicate")
    return padded[..., 3 + down : 67 + down, 3 + right : 67 + right]


def _recolour(images: Tensor, generator: torch.Generator) -> Tensor:
    count = len(images)
    contrast = 0.85 + 0.3 * torch.rand((count, 1, 1, 1), generator=generator)
    shade = 0.1 * (2 * torch.rand((count, 3, 1, 1), generator=generator) - 1)
    return (images * contrast + shade).clamp(0, 1)
