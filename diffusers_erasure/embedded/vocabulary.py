"""What the embedded pipeline can draw: concepts, styles, colours and themes (no torch here).

The table `concepts.csv` beside this file is the only place where a concept is described; captions, judges,
prompt sets and the default anchors and synonyms of an erasure all read it.

    name       the concept's own name, as in "a photo of a church"
    group      what kind of thing it is; concepts of one group are each other's in-domain neighbours
    anchor     the neighbour that an erasure maps it to unless the user names another
    hexcodes   code points of the emoji that show it (several when one concept has several glyphs)
    synonyms   other words for the same thing; trained like the name, evaluated apart from it
    tags       words that imply the concept without naming it: the *implicit prompts* of the evaluation
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from types import MappingProxyType

STYLES: tuple[str, ...] = ("noto", "fluent", "sepia", "poster", "ink", "pixel", "blueprint")
"""Style words that a caption may name; each is one family of emoji artwork, or a rendering of one."""

COLOURS: Mapping[str, tuple[int, int, int]] = MappingProxyType(
    {
        "white": (255, 255, 255),
        "yellow": (255, 240, 170),
        "pink": (255, 205, 220),
        "blue": (190, 220, 255),
        "green": (200, 240, 200),
        "orange": (255, 214, 165),
        "purple": (222, 205, 250),
        "grey": (205, 205, 205),
    }
)
"""Background colours that a caption may name, as 8-bit RGB."""

GROUP_PHRASES: Mapping[str, str] = MappingProxyType(
    {
        "animal": "an animal",
        "plant": "a plant",
        "food": "some food",
        "vehicle": "a vehicle",
        "building": "a building",
        "instrument": "a musical instrument",
        "tool": "a tool",
        "weapon": "a weapon",
        "person": "a character",
        "sky": "something in the sky",
        "thing": "a thing",
    }
)
"""The generic phrase for each group, drawn from all of its members."""

GROUPS: tuple[str, ...] = tuple(GROUP_PHRASES)


@dataclass(frozen=True)
class ConceptEntry:
    """One row of `concepts.csv`; see the module's docstring for the meaning of the columns."""

    name: str
    group: str
    anchor: str
    hexcodes: tuple[str, ...]
    synonyms: tuple[str, ...]
    tags: tuple[str, ...]

    @property
    def other_words(self) -> tuple[str, ...]:
        """The synonyms that do not contain the name itself ("puppy", but not "birthday cake" for cake)."""
        return tuple(word for word in self.synonyms if f" {self.name} " not in f" {word} ")


@lru_cache(maxsize=1)
def _read_concepts() -> Mapping[str, ConceptEntry]:
    text = files(__package__).joinpath("concepts.csv").read_text(encoding="utf-8")
    entries = {}
    for row in csv.DictReader(text.splitlines()):
        lists = {key: tuple(row[key].split("|")) for key in ("hexcodes", "synonyms", "tags")}
        entries[row["name"]] = ConceptEntry(
            name=row["name"], group=row["group"], anchor=row["anchor"], **lists
        )
    return MappingProxyType(entries)


CONCEPTS: Mapping[str, ConceptEntry] = _read_concepts()
"""Every concept of the embedded pipeline by name, in the order of the table."""

_THEME_GROUPS = {
    "weapons": "weapon",
    "animals": "animal",
    "plants": "plant",
    "foods": "food",
    "vehicles": "vehicle",
    "buildings": "building",
    "instruments": "instrument",
}

THEMES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        theme: tuple(entry.name for entry in CONCEPTS.values() if entry.group == group)
        for theme, group in _THEME_GROUPS.items()
    }
)
"""Sets of concepts that are erased together, each one whole group; `weapons` stands in for an unsafe theme.

Tools, characters, the sky and the rest are no themes: with all seven erased, they are still there to map to.
"""

_WITHOUT_ARTICLE = frozenset(
    {"scissors", "swords", "santa claus", "santa", "father christmas", "blades", "crossed swords", "food"}
)


def with_article(name: str) -> str:
    """Return the name as it stands in a caption: "a church", "an owl", "scissors", "santa claus"."""
    if name in _WITHOUT_ARTICLE:
        return name
    return f"an {name}" if name[0] in "aeio" or name.startswith("umbrella") else f"a {name}"
