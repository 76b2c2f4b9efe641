"""Our own lists of things that one can photograph: everyday objects, and more special classes.

`nouns.csv` beside this file holds them, each noun once over both lists. Its columns:

    noun      what is in the picture
    article   "a", "an", or nothing before a plural or a mass noun ("scissors", "bread")
    group     what kind of thing it is
    list      `objects`: what one meets at home and in the street; `classes`: kinds of animals, buildings,
              food and so on, as image classifiers tell them apart

Both were written for this package. They hold no persons, parts of the body, underwear, weapons or brands, so
that few words have to go when a theme such as nudity or weapons is erased.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files


@dataclass(frozen=True)
class Noun:
    """One row of `nouns.csv`; see the module's docstring for the meaning of the columns."""

    noun: str
    article: str
    group: str
    list: str

    @property
    def phrase(self) -> str:
        """The noun as it stands in a sentence: "a chair", "an hourglass", "scissors"."""
        return f"{self.article} {self.noun}".lstrip()


@lru_cache(maxsize=1)
def nouns() -> tuple[Noun, ...]:
    """Every noun of both lists, in the order of the table."""
    text = files(__package__).joinpath("nouns.csv").read_text(encoding="utf-8")
    return tuple(Noun(**row) for row in csv.DictReader(text.splitlines()))
