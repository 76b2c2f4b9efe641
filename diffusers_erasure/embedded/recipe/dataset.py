"""The banks of pictures that the networks learn from, drawn once and kept as uint8 arrays.

`art`    single drawings of every emoji in every family: what the autoencoder must be able to show;
         one code point in twenty is held out in all families (`unseen art`).
`other`  drawings whose name shares no word with the vocabulary: the judges' "none of these".
`scenes` pictures of the vocabulary's concepts with what a caption may say of them.
"""

import io
import json
import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from diffusers_erasure.durable import write_whole
from diffusers_erasure.embedded.recipe import captions
from diffusers_erasure.embedded.recipe.artwork import SOURCES, Family, icon_names
from diffusers_erasure.embedded.recipe.raster import PICTURE, RECOLOURED, Pixels, rasterise, render_style
from diffusers_erasure.embedded.vocabulary import COLOURS, CONCEPTS, STYLES
from diffusers_erasure.errors import TrainingError

FAMILY_OF_STYLE = {
    "ink": "contrast", "blueprint": "contrast", "pixel": "fluent", "sepia": "noto", "poster": "noto"
}  # fmt: skip
"""The family that a style is drawn from, where they are not called alike."""

_VIEWS_PER_GLYPH = 16
_PAIRS_PER_STYLE = 560
_TWICE_PER_CONCEPT = 1
_HELD_OUT = 20

Progress = Callable[[str, int, int], None]
Glyphs = dict[tuple[str, str], list[Image.Image]]


@dataclass(frozen=True)
class Scene:
    """What a picture shows: one concept, two different ones, or one twice."""

    concepts: tuple[str, ...]
    style: str
    colour: str | None

    def caption(self, rng: random.Random) -> str:
        """Draw a caption for the scene from the grammar."""
        if len(self.concepts) == 1:
            return captions.single(self.concepts[0], self.style, self.colour, rng)
        left, right = self.concepts
        if left == right:
            return captions.twice(left, self.style, self.colour, rng)
        return captions.pair(left, right, self.style, self.colour, rng)


@dataclass(frozen=True)
class Scenes:
    """Pictures `(count, 64, 64, 3)` uint8 and what each of them shows."""

    pictures: Pixels
    scenes: tuple[Scene, ...]


def load_glyphs(artwork: dict[str, Path]) -> Glyphs:
    """Rasterise every concept in every style: `(concept, style)` to its glyphs."""
    families = {name: Family(path) for name, path in artwork.items()}
    names = icon_names(artwork["noto"])
    glyphs: Glyphs = {}
    for style in STYLES:
        family = families[FAMILY_OF_STYLE.get(style, style)]
        for entry in CONCEPTS.values():
            drawings = [_drawing(family, names[code]) for code in entry.hexcodes]
            glyphs[entry.name, style] = [rasterise(svg) for svg in drawings]
    return glyphs


def _drawing(family: Family, name: str) -> str:
    for candidate in (name, f"{name}-face", name.removeprefix("water-")):
        svg = family.svg(candidate)
        if svg is not None:
            return svg
    raise TrainingError(
        f"a family of artwork has no drawing called {name!r}; take another code point in concepts.csv"
    )


def build_scenes(artwork: dict[str, Path], folder: Path, *, seed: int, progress: Progress) -> Scenes:
    """Compose the concept pictures, or read them back if `folder` has them."""
    if not (folder / "scenes.json").exists():
        _write_scenes(load_glyphs(artwork), folder, random.Random(seed), progress)
    records = json.loads((folder / "scenes.json").read_text(encoding="utf-8"))
    scenes = tuple(Scene(tuple(concepts), style, colour) for concepts, style, colour in records)
    return Scenes(np.load(folder / "scenes.npy", mmap_mode="r"), scenes)


def _write_scenes(glyphs: Glyphs, folder: Path, rng: random.Random, progress: Progress) -> None:
    plan = _plan(glyphs, rng)
    pictures = np.empty((len(plan), PICTURE, PICTURE, 3), np.uint8)
    records = []
    for index, (concepts, style, chosen) in enumerate(plan):
        colour = _background(style, rng)
        placed = [
            _scatter(glyph, slot if len(chosen) > 1 else None, rng) for slot, glyph in enumerate(chosen)
        ]
        pictures[index] = render_style(placed, style, COLOURS[colour or "white"])
        records.append((concepts, style, colour))
        if index % 500 == 0:
            progress("scenes", index, len(plan))
    _keep(folder / "scenes.npy", pictures)
    write_whole(folder / "scenes.json", json.dumps(records).encode())


def _plan(glyphs: Glyphs, rng: random.Random) -> list[tuple[tuple[str, ...], str, list[Image.Image]]]:
    plan: list[tuple[tuple[str, ...], str, list[Image.Image]]] = []
    for (concept, style), drawings in glyphs.items():
        views = _VIEWS_PER_GLYPH * (3 if len(drawings) > 1 else 2) // 2
        plan += [((concept,), style, [drawings[view % len(drawings)]]) for view in range(views)]
        plan += [((concept, concept), style, [drawings[0]] * 2)] * _TWICE_PER_CONCEPT
    for style in STYLES:
        for _ in range(_PAIRS_PER_STYLE):
            left, right = rng.sample(list(CONCEPTS), 2)
            plan.append(((left, right), style, [glyphs[left, style][0], glyphs[right, style][0]]))
    return plan


def _background(style: str, rng: random.Random) -> str | None:
    if style in RECOLOURED or rng.random() < 0.45:
        return None
    return rng.choice(list(COLOURS))


def _scatter(glyph: Image.Image, slot: int | None, rng: random.Random) -> tuple[Image.Image, int, int, int]:
    if slot is None:
        size = rng.randint(54, 58)
        return glyph, size, _near((PICTURE - size) // 2, rng), _near((PICTURE - size) // 2, rng)
    size = 30
    return glyph, size, _near(slot * PICTURE // 2 + 1, rng, 1), _near((PICTURE - size) // 2, rng)


def _near(place: int, rng: random.Random, reach: int = 2) -> int:
    return place + rng.randint(-reach, reach)


def build_art(
    artwork: dict[str, Path], folder: Path, *, seed: int, progress: Progress
) -> tuple[Pixels, Pixels]:
    """Draw every emoji of every family once: training art and unseen art, uint8 `(count, 64, 64, 3)` each."""
    if not (folder / "unseen.npy").exists():
        rng = random.Random(seed)
        seen: list[Pixels] = []
        unseen: list[Pixels] = []
        families = [name for name, source in SOURCES.items() if source.trains]
        for step, name in enumerate(families):
            progress("art", step, len(families))
            family = Family(artwork[name])
            for icon in family.names:
                svg = family.svg(icon)
                if svg is not None:
                    held_out = zlib.crc32(icon.encode()) % _HELD_OUT == 0
                    (unseen if held_out else seen).append(_portrait(svg, name, rng))
        _keep(folder / "art.npy", np.stack(seen))
        _keep(folder / "unseen.npy", np.stack(unseen))
    return np.load(folder / "art.npy", mmap_mode="r"), np.load(folder / "unseen.npy", mmap_mode="r")


def build_other(artwork: dict[str, Path], folder: Path, *, seed: int, progress: Progress) -> Pixels:
    """Draw the emoji that show none of the vocabulary's concepts; uint8 `(count, 64, 64, 3)`."""
    if not (folder / "other.npy").exists():
        rng = random.Random(seed)
        words = {
            _stem(word) for e in CONCEPTS.values() for name in (e.name, *e.synonyms) for word in name.split()
        }
        drawn = []
        families = [name for name, source in SOURCES.items() if source.trains and name != "glossy"]
        for step, name in enumerate(families):
            progress("other", step, len(families))
            family = Family(artwork[name])
            free = [icon for icon in family.names if not words & {_stem(part) for part in icon.split("-")}]
            drawn += [_portrait(svg, name, rng) for icon in free if (svg := family.svg(icon)) is not None]
        _keep(folder / "other.npy", np.stack(drawn))
    other: Pixels = np.load(folder / "other.npy", mmap_mode="r")
    return other


def _keep(path: Path, pictures: Pixels) -> None:
    """Write a bank whole or not at all: a run that was killed must not find half of one."""
    buffer = io.BytesIO()
    np.save(buffer, pictures)
    write_whole(path, buffer.getvalue())


def _stem(word: str) -> str:
    """The word without a plural's s, so that `bus-stop`, `cats` and `scissors` are all recognised."""
    return word.rstrip("s")


def _portrait(svg: str, family: str, rng: random.Random) -> Pixels:
    styles = [style for style in STYLES if FAMILY_OF_STYLE.get(style, style) == family] or [family]
    placed = _scatter(rasterise(svg), None, rng)
    return render_style([placed], rng.choice(styles), rng.choice(list(COLOURS.values())))
