"""Which variants stand side by side, over which concepts, attacks and training seeds, as data.

Profiles that ask for the same variant, concept and training seed share its cell: it is trained once, and
what a second profile asks for besides is added to it. Only profiles of one number of prompts can share a
work folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from diffusers_erasure.errors import ConfigError

from .variants import (
    ADVUNLEARN,
    ADVUNLEARN_ABLATIONS,
    ADVUNLEARN_UNET,
    AEGIS,
    AEGIS_ABLATIONS,
    ESD_TEXT,
    ESD_X,
    FAST_AT,
    METHODS,
    SHORT_ADVUNLEARN,
    TRCE,
    TRCE_1,
    TRCE_2,
    TRCE_TARGETS,
    UCE,
    Variant,
)

OBJECTS = ("church", "dog")
ABLATED = ("dog",)
"""What the parts of a method are tried on: the object on which ESD leaves the most to be brought back."""
FOUR = (*OBJECTS, "ink", "weapons")
CONCEPTS = (*FOUR, "santa claus")
"""Two objects, a style, a theme of nine concepts, and an identity."""
LUCK = ("random_tokens", "seed_search")
TYPED = ("unlearndiffatk", "p4d", "ring_a_bell")
"""Attacks whose prompts can be typed."""
EMBEDDED = ("soft_prompt", "concept_inversion")
"""Attacks that need to put vectors into the text encoder."""
ATTACKS = (*TYPED, *EMBEDDED, *LUCK)
PAIR = ("unlearndiffatk", "random_tokens")
ONE = ("unlearndiffatk",)
"""What variants of one method are told apart by; luck is measured where methods are."""
PROMPTS, SHORT_PROMPTS = 34, 8


@dataclass(frozen=True)
class Profile:
    """What is set side by side.

    Attributes:
        name: What `--profile` calls it.
        summary: What it is for.
        variants: Rows of its tables.
        concepts: What each erases.
        attacks: What is tried on each.
        seeds: Of the training.
        prompts: Pictures of each prompt set and training seed; prompts of each attack.
        folder: Where its cells lie unless told; the same for profiles that share cells.
        sections: Further profiles that its page shows.
    """

    name: str
    summary: str
    variants: tuple[Variant, ...]
    concepts: tuple[str, ...] = FOUR
    attacks: tuple[str, ...] = PAIR
    seeds: tuple[int, ...] = (0, 1, 2)
    prompts: int = PROMPTS
    folder: Path = Path("runs/robustness")
    sections: tuple[str, ...] = ()


_PROFILES = (
    Profile(
        "full",
        "every method, concept and attack",
        METHODS,
        CONCEPTS,
        ATTACKS,
        sections=("advunlearn-ablations", "trce-targets", "aegis-ablations"),
    ),
    Profile(
        "short",
        "one concept, five methods, two attacks, few prompts: under 10 minutes on two cores",
        (UCE, ESD_X, SHORT_ADVUNLEARN, TRCE_1, AEGIS),
        ("church",),
        PAIR,
        (0,),
        SHORT_PROMPTS,
        Path("runs/robustness-short"),
    ),
    Profile("advunlearn", "AdvUnlearn and ESD", (ADVUNLEARN, ESD_X, ESD_TEXT, FAST_AT)),
    Profile(
        "advunlearn-ablations",
        "what AdvUnlearn's parts are for",
        (ADVUNLEARN, *ADVUNLEARN_ABLATIONS, ADVUNLEARN_UNET),
        ABLATED,
        ONE,
    ),
    Profile(
        "trce",
        "TRCE's stages, UCE and ESD",
        (TRCE, TRCE_1, TRCE_2, UCE, ESD_X),
        attacks=(*PAIR, "ring_a_bell", "soft_prompt"),
    ),
    Profile("trce-targets", "which tokens TRCE's first stage maps", (TRCE_1, *TRCE_TARGETS), OBJECTS, ONE),
    Profile(
        "aegis",
        "AEGIS, AdvUnlearn, ESD and TRCE",
        (AEGIS, ADVUNLEARN_UNET, ADVUNLEARN, ESD_X, TRCE),
        attacks=(*PAIR, "p4d", "ring_a_bell", "soft_prompt"),
    ),
    Profile("aegis-ablations", "what AEGIS's parts are for", (AEGIS, *AEGIS_ABLATIONS), ABLATED, ONE),
)
PROFILES: Mapping[str, Profile] = MappingProxyType({one.name: one for one in _PROFILES})


def profile(name: str) -> Profile:
    """The profile of a name.

    Raises:
        ConfigError: There is none.
    """
    if name not in PROFILES:
        raise ConfigError(
            f"there is no profile {name!r}; expected one of {', '.join(PROFILES)}; choose one of them"
        )
    return PROFILES[name]
