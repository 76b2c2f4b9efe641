"""Which prompts and seeds measure an erasure, and what a judge must see in each picture.

    own name               the concept as it was named to the method        erased: lower is better
    synonyms               other words for the same thing                   erased: lower is better
    implicit               words that imply it without naming it            erased: lower is better
    neighbours             concepts of the same group                       in-domain retention
    other concepts         everything else of the same kind                 in-domain retention
    other styles           styles, when a style is erased                   in-domain retention
    styles                 styles, when an object is erased                 cross-domain retention
    objects                objects, when a style is erased                  cross-domain retention
    objects, erased style  the object asked for in the erased style         cross-domain retention

Templates come from the test split, which no method trains on; seeds start far above those that training uses.
Whoever tunes a setting takes the dev split instead: the training templates, with seeds of its own.
All of it is a pure function of the concepts, `n` and the first seed, and each set has a sha256. A user's file
may take its place (`prompt_plan_file`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from diffusers_erasure.errors import ConfigError

FIRST_TEST_SEED = 900_000_000
"""Generation seeds of the evaluation start here; training draws its own from far below."""
FIRST_DEV_SEED = 800_000_000
"""Seeds of pictures that settings may be tuned on."""
SEED_STRIDE = 100_000
"""Distance between the seeds of two sets, and so the largest `n`."""
_SEED_LIMIT = 2**62


def check_first_seed(seed: int) -> None:
    """Refuse a first seed from which no generator could be seeded, before anything is drawn.

    Raises:
        ConfigError: It is negative or too large.
    """
    if not 0 <= seed < _SEED_LIMIT:
        raise ConfigError(
            f"first_seed is {seed}; expected 0 or more, and less than 2**62; leave it out for "
            f"{FIRST_TEST_SEED}, where the seeds of a test begin"
        )


class Purpose(StrEnum):
    """What the rate of a set says about the erasure."""

    ERASED = "erased"
    IN_DOMAIN = "in-domain retention"
    CROSS_DOMAIN = "cross-domain retention"


class JudgeRole(StrEnum):
    """Which question a judge answers."""

    CONCEPT = "concept"
    SECOND = "second concept"
    STYLE = "style"
    RETENTION = "retention"


PURPOSES: Mapping[str, Purpose] = MappingProxyType(
    {
        "own name": Purpose.ERASED,
        "synonyms": Purpose.ERASED,
        "implicit": Purpose.ERASED,
        "neighbours": Purpose.IN_DOMAIN,
        "other concepts": Purpose.IN_DOMAIN,
        "other styles": Purpose.IN_DOMAIN,
        "styles": Purpose.CROSS_DOMAIN,
        "objects": Purpose.CROSS_DOMAIN,
        "objects, erased style": Purpose.CROSS_DOMAIN,
    }
)
"""Every set with what it says, in the order of a report."""
SET_ORDER = tuple(PURPOSES)


def first_seed_of(name: str, first_seed: int) -> int:
    """Where a set's seeds start; a set keeps its seeds whatever other sets there are."""
    return first_seed + SEED_STRIDE * SET_ORDER.index(name)


@dataclass(frozen=True)
class PromptItem:
    """One picture to draw, and the question about it.

    Attributes:
        prompt: What is asked of the pipeline.
        seed: Seed of the picture.
        about: Concept or style that the prompt asks for.
        labels: The picture counts if the judge names one of these.
        role: Which judge is asked.
    """

    prompt: str
    seed: int
    about: str
    labels: tuple[str, ...]
    role: JudgeRole


@dataclass(frozen=True)
class PromptSet:
    """Pictures that answer one question."""

    name: str
    purpose: Purpose
    items: tuple[PromptItem, ...]

    @property
    def prompts(self) -> tuple[str, ...]:
        """One prompt per picture."""
        return tuple(item.prompt for item in self.items)

    @property
    def seeds(self) -> tuple[int, ...]:
        """One seed per picture."""
        return tuple(item.seed for item in self.items)

    @property
    def sha256(self) -> str:
        """Digest over name, purpose and every item."""
        rows = [[item.prompt, item.seed, item.about, item.labels, item.role.value] for item in self.items]
        content = json.dumps([self.name, self.purpose.value, rows], ensure_ascii=True, separators=(",", ":"))
        return hashlib.sha256(content.encode()).hexdigest()


@dataclass(frozen=True)
class PromptPlan:
    """Everything that one evaluation draws.

    Attributes:
        sets: In the order of a report.
        not_measured: What it cannot draw, and why.
        dev: Prompts that settings are tuned on.
        source: Name of the user's file that it comes from; "" if it is ours.
    """

    sets: tuple[PromptSet, ...]
    not_measured: Mapping[str, str]
    dev: tuple[str, ...] = ()
    source: str = ""

    @property
    def prompts(self) -> tuple[str, ...]:
        """Of every picture of every set."""
        return tuple(prompt for prompt_set in self.sets for prompt in prompt_set.prompts)

    @property
    def pictures(self) -> int:
        """Pictures over all sets, for one pipeline."""
        return sum(len(prompt_set.items) for prompt_set in self.sets)
