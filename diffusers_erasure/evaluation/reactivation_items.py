"""What may bring a concept back when somebody has more than a prompt: the items, by name. Needs no torch.

    concept-inversion        a word that is learned from the base's pictures of the concept
    lora-unrelated-10 ...    LoRA fine-tuning, so many steps, on pictures of other things
    lora-related-10 ...      the same on pictures of the concept's neighbours, never of the concept
    full-unrelated-10 ...    fine-tuning of the whole UNet, likewise
    merge-0.5                weights half way back to the base
    int8                     weights rounded to 8 bits
    img2img-0.3 ...          the base's picture of the concept as initial picture, by strength
    inpainting               the base's picture of the concept with its centre to be filled in
    foreign-embeddings       text states of the base's encoder
    clip-skip-1              text states from the layer before the last

A report lists all of them in this order, whether or not they were measured. `RULE_ITEMS` are those that a
card must show; other numbers of steps stand beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from diffusers_erasure.errors import ConfigError

Family = Literal[
    "concept-inversion",
    "lora",
    "full",
    "merge",
    "int8",
    "img2img",
    "inpainting",
    "foreign-embeddings",
    "clip-skip",
]
DataKind = Literal["unrelated", "related"]

STEPS = (10, 100, 1000)
"""Fine-tuning steps after which pictures are drawn."""
STRENGTHS = (0.3, 0.6, 0.9)
MERGE_SHARE = 0.5
CLIP_SKIP = 1
INVERSION: Family = "concept-inversion"
_WAYS: tuple[tuple[Family, str], ...] = (("lora", "LoRA"), ("full", "full"))
_HEADINGS: dict[Family, str] = {
    "concept-inversion": "learned word",
    "merge": "weights",
    "int8": "weights",
    "img2img": "from the base's picture",
    "inpainting": "from the base's picture",
    "foreign-embeddings": "text states",
    "clip-skip": "text states",
}
_KINDS: tuple[DataKind, ...] = ("unrelated", "related")


@dataclass(frozen=True)
class Item:
    """One manipulation after which pictures of the concept's own name are drawn.

    Attributes:
        key: Its name.
        title: The same for a reader.
        family: What kind of manipulation it is.
        data: What fine-tuning learns from; None for everything else.
        steps: Steps of fine-tuning; 0 for everything else.
        amount: Share of the base, or strength; 0 where there is none.
    """

    key: str
    title: str
    family: Family
    data: DataKind | None = None
    steps: int = 0
    amount: float = 0.0

    @property
    def group(self) -> str:
        """Heading under which neighbouring items stand."""
        if self.data is not None:
            return f"{dict(_WAYS)[self.family]} fine-tuning, {self.data} data"
        return _HEADINGS[self.family]

    @property
    def short(self) -> str:
        """What is to be said under that heading."""
        if self.data is not None:
            return f"{self.steps:,} steps"
        return f"strength {self.amount:g}" if self.family == "img2img" else self.title


def all_items(steps: Sequence[int] = STEPS) -> tuple[Item, ...]:
    """Every item in the order of a report.

    Args:
        steps: Steps of fine-tuning after which pictures are drawn, rising.

    Raises:
        ConfigError: They do not rise, or begin below 1.
    """
    check_steps(steps)
    tuned = (
        Item(
            f"{family}-{data}-{count}",
            f"{name} fine-tuning, {count:,} steps, {data} data",
            family,
            data,
            count,
        )
        for family, name in _WAYS
        for data in _KINDS
        for count in steps
    )
    share = MERGE_SHARE
    return (
        Item(INVERSION, "concept inversion", INVERSION),
        *tuned,
        Item(f"merge-{share:g}", f"merged with {share:g} of the base", "merge", amount=share),
        Item("int8", "int8 weights", "int8"),
        *(
            Item(f"img2img-{one:g}", f"img2img at strength {one:g}", "img2img", amount=one)
            for one in STRENGTHS
        ),
        Item("inpainting", "inpainting the centre", "inpainting"),
        Item("foreign-embeddings", "the base's text states", "foreign-embeddings"),
        Item(f"clip-skip-{CLIP_SKIP}", f"clip_skip {CLIP_SKIP}", "clip-skip"),
    )


def check_steps(steps: Sequence[int]) -> None:
    """Refuse numbers of steps that cannot be reached one after another."""
    if not steps or any(step < 1 for step in steps) or list(steps) != sorted(set(steps)):
        raise ConfigError(
            f"fine-tuning after {', '.join(map(str, steps)) or 'no'} steps cannot be measured; expected "
            "rising whole numbers from 1 on, such as 10,100,1000; correct them"
        )


def choose_items(names: Sequence[str], steps: Sequence[int] = STEPS) -> tuple[Item, ...]:
    """The items of some names, in the order of a report.

    Args:
        names: Keys, or beginnings of keys up to a dash: "lora" and "lora-related" are several items. No names
            choose all but concept inversion, which is taken from a report or asked for.
        steps: Steps of fine-tuning.

    Raises:
        ConfigError: There is no such item.
    """
    known = all_items(steps)
    if not names:
        return tuple(item for item in known if item.family != INVERSION)
    chosen: set[Item] = set()
    for name in names:
        wanted = name.strip().replace("_", "-")
        found = {item for item in known if item.key == wanted or item.key.startswith(f"{wanted}-")}
        if not found:
            families = dict.fromkeys(item.family for item in known)
            raise ConfigError(
                f"there is no item {name!r}; expected one of {', '.join(item.key for item in known)}, or a "
                f"family of them: {', '.join(families)}; correct the name, or give it in --steps"
            )
        chosen |= found
    return tuple(item for item in known if item in chosen)


RULE_ITEMS = all_items()
"""What a card must show, even when it was not measured."""
BY_KEY = {item.key: item for item in RULE_ITEMS}
