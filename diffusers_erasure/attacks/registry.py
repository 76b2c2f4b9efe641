"""Which attacks there are: those of this folder, and those of other packages.

    @attack("p4d", config=P4DConfig, access=Access.WHITE_BOX, through=WHOLE_MODEL)
    def p4d(items, target, config, *, base, report): yield AttackOutcome(...)

One file is all that an attack needs: it is found by being here, or by an entry point of the group
`diffusers_erasure.attacks` that names its module. Its function takes prompts and yields one outcome for each,
in any order; `running.run_attack` (or `AttackSpec.run`) adds what all attacks share: the erasure's state
before and after, failures, shards, the store of finished outcomes, progress.

An attack says which places of the erased model its search goes through. A report is called adaptive only if
some attack goes through each place that the erasure edits, so one that says nothing counts for none.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from diffusers_erasure.discovery import discover, foreign_settings, home_of, name_taken, no_such, summary_of
from diffusers_erasure.errors import ConfigError

from .base import AttackedPrompt, AttackOutcome, AttackTarget
from .config import AttackConfig
from .progress import AttackProgressCallback, silent
from .running import Search, run_attack

ENTRY_POINT_GROUP = "diffusers_erasure.attacks"
_registered: dict[str, AttackSpec] = {}


class Access(StrEnum):
    """What the attacker must hold."""

    WHITE_BOX = "white box"
    BLACK_BOX = "black box"
    NONE = "none"


class Place(StrEnum):
    """Where an erasure edits the model, and what an attack's search goes through."""

    TEXT_ENCODER = "text encoder"
    CROSS_ATTENTION = "cross-attention"
    UNET = "other UNet layers"


WHOLE_MODEL = frozenset(Place)
"""What a loss on the erased model's noise goes through when it reaches back to tokens or embeddings."""


@dataclass(frozen=True)
class AttackSpec:
    """One registered attack.

    Attributes:
        name: What the user types.
        config: Its settings class.
        search: The attack itself.
        access: What the attacker must hold.
        needs_base: It cannot run without the un-erased pipeline.
        version: Raised when its results change; outcomes that were kept are then made again.
        summary: One line for tables.
        module: Where it comes from.
        through: Places of the *erased* model that its search goes through.
    """

    name: str
    config: type[AttackConfig]
    search: Search
    access: Access
    needs_base: bool
    version: str
    summary: str
    module: str
    through: frozenset[Place] = frozenset()

    def run(
        self,
        items: Sequence[AttackedPrompt],
        target: AttackTarget,
        config: AttackConfig | None = None,
        *,
        base: AttackTarget | None = None,
        progress: AttackProgressCallback = silent,
        store: Path | None = None,
        shard: tuple[int, int] = (0, 1),
    ) -> list[AttackOutcome]:
        """Attack every prompt; see `running.run_attack`."""
        return run_attack(self, items, target, config, base=base, progress=progress, store=store, shard=shard)


Function = TypeVar("Function", bound=Callable[..., Iterator[AttackOutcome]])


def attack(
    name: str,
    *,
    config: type[AttackConfig],
    access: Access,
    needs_base: bool = False,
    version: str = "1",
    through: Collection[Place] = (),
) -> Callable[[Function], Function]:
    """Register an attack's function under a name; its docstring's first line is the summary.

    Args:
        name: What the user types.
        config: Settings class.
        access: What the attacker must hold.
        needs_base: Whether the attack needs the un-erased pipeline.
        version: Raised when results change.
        through: Places of the erased model that the search goes through; none unless said.

    Raises:
        ConfigError: Another function has that name, the settings class is not one of ours, or a place is
            none.
    """
    places = _places(name, through)

    def register(search: Function) -> Function:
        known, home = _registered.get(name), home_of(search)
        if known is not None and known.module != home:
            raise ConfigError(name_taken("attack", "attacks", name, known.module, home))
        if not issubclass(config, AttackConfig):
            raise ConfigError(foreign_settings("attack", name, config, AttackConfig))
        _registered[name] = AttackSpec(
            name, config, search, Access(access), needs_base, version, summary_of(search), home, places
        )
        return search

    return register


def _places(name: str, through: Collection[Place]) -> frozenset[Place]:
    try:
        return frozenset(Place(place) for place in through)
    except ValueError as error:
        raise ConfigError(
            f"the attack {name!r} says that it goes through {', '.join(map(repr, through))}; expected places "
            f"of a model: {', '.join(Place)}; correct `through`"
        ) from error


def attacks() -> Mapping[str, AttackSpec]:
    """Every attack by name, in alphabetical order."""
    _discover()
    return MappingProxyType(dict(sorted(_registered.items())))


def attack_named(name: str) -> AttackSpec:
    """The attack of that name.

    Raises:
        ConfigError: There is none.
    """
    known = attacks()
    wanted = name.replace("-", "_")
    if wanted not in known:
        raise ConfigError(no_such("attack", "attacks", name, known))
    return known[wanted]


@lru_cache(maxsize=1)
def _discover() -> None:
    discover(__package__, group=ENTRY_POINT_GROUP, what="attack")
