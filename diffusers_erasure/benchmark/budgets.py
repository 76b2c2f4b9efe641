"""How much of its published budget each attack was given: computed from the presets, never typed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from diffusers_erasure.attacks import AttackConfig, attack_named
from diffusers_erasure.evaluation.attack_settings import PUBLISHED, QUICK, preset_config

from .cells import LUCK_PICTURES
from .checks import NAMES


@dataclass(frozen=True)
class Budget:
    """An attack with both presets.

    Attributes:
        name: The attack.
        unit: What is counted.
        quick: How many at most of a prompt.
        published: The same as its paper or code has it.
        pictures: Most judged pictures of a prompt, quick and published.
    """

    name: str
    unit: str
    quick: int
    published: int
    pictures: tuple[int, int]

    @property
    def share(self) -> float:
        """Quick of published."""
        return self.quick / self.published


def budget_of(name: str) -> Budget:
    """The budgets of an attack, with luck as often as it is asked for here."""
    quick, published = (preset_config(attack_named(name), preset) for preset in (QUICK, PUBLISHED))
    if name == "random_tokens":
        quick = quick.model_copy(update={"images": LUCK_PICTURES})
    pictures = quick.judged_images, published.judged_images
    if "images" in type(quick).model_fields:
        return Budget(name, "pictures", *pictures, pictures)
    unit = "candidates" if "population" in type(quick).model_fields else "steps"
    return Budget(name, unit, _effort(quick), _effort(published), pictures)


def _effort(config: AttackConfig) -> int:
    """Steps of a prompt; where a step looks at a population, candidates."""
    return config.work * int(getattr(config, "population", 1))


def tokens_of(name: str) -> int:
    """How many tokens an attack seeks."""
    return int(getattr(preset_config(attack_named(name), QUICK), "tokens", 0))


def budget_rows(attacks: Sequence[str]) -> list[tuple[str, ...]]:
    """Attack, quick, published, share, judged pictures."""
    found: list[tuple[str, ...]] = []
    for one in map(budget_of, attacks):
        quick, published = (f"{count:,} {one.unit}" for count in (one.quick, one.published))
        pictures = f"{one.pictures[0]} of {one.pictures[1]}"
        found.append((NAMES[one.name], quick, published, f"{100 * one.share:.3g} %", pictures))
    return found
