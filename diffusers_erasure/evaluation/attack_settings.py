"""How the attacks of an evaluation are run: which ones, with what budget, and luck with as much.

A budget preset names a size that everybody means the same by: `published` is each attack as its paper or
code gives it, `quick` is small enough for a look. A report says which one it was, and all settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from diffusers_erasure.attacks import AttackConfig, AttackSpec, attack_named
from diffusers_erasure.errors import ConfigError, EvaluationError

from .budgets import FACTORS, check_factors

PUBLISHED, QUICK = "published", "quick"
NO_ATTACK = "no_attack"
RANDOM_TOKENS = "random_tokens"
BASELINES = (RANDOM_TOKENS, "seed_search")
"""Luck: random tokens in the attack's place, and the plain prompt with other seeds."""
SHARED = ("seed", "batch_size", "tokens", "placement")
"""Settings that luck takes over from the attack beside it."""

QUICK_SETTINGS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "concept_inversion": {"steps": 300},
        "p4d": {"steps": 60, "judge_every": 6},
        "random_tokens": {"images": 11},
        "ring_a_bell": {"population": 40, "generations": 60},
        "seed_search": {"images": 11},
        "unlearndiffatk": {"timesteps": 10, "iterations": 8},
    }
)
"""What `quick` changes of the published settings, at 1x."""


@dataclass(frozen=True)
class AttackSettings:
    """What is attacked with, and how hard.

    Attributes:
        attacks: Names of attacks.
        budget: Name of the budget preset.
        configs: Settings of single attacks, instead of the preset's.
        factors: Multiples of the budget.
        baselines: Attacks without any knowledge that stand beside each attack with as many judged pictures.
        prompts: Attack only the first so many prompts of the concept's own name; None attacks all.
    """

    attacks: tuple[str, ...]
    budget: str = QUICK
    configs: Mapping[str, AttackConfig] = field(default_factory=lambda: MappingProxyType({}))
    factors: tuple[int, ...] = FACTORS
    baselines: tuple[str, ...] = BASELINES
    prompts: int | None = None

    def __post_init__(self) -> None:
        check_factors(self.factors)
        if self.prompts is not None and self.prompts < 1:
            raise ConfigError(
                f"{self.prompts} prompts cannot be attacked; expected at least 1; leave it out to attack all"
            )

    def planned(self) -> list[tuple[AttackSpec, AttackConfig]]:
        """Every attack with its settings at 1x; each once, in the order in which they were named."""
        specs = dict.fromkeys(attack_named(name).name for name in self.attacks)
        specs.pop(NO_ATTACK, None)
        if not specs:
            raise ConfigError(
                "no attack was named; expected some, such as random_tokens; the plain prompts are "
                "always judged"
            )
        planned = [(spec, self._config(spec)) for spec in map(attack_named, specs)]
        for spec, config in planned:
            if getattr(config, "prompt_file", "") is None:
                raise ConfigError(
                    f"{spec.name} was asked for without prompts, and would draw the plain ones; expected a "
                    "file; give its settings a prompt_file, or use `attack --prompts FILE`"
                )
        return planned

    def _config(self, spec: AttackSpec) -> AttackConfig:
        given = self.configs.get(spec.name)
        return given if given is not None else preset_config(spec, self.budget)


def preset_config(spec: AttackSpec, budget: str) -> AttackConfig:
    """Settings of an attack at 1x of a budget preset.

    Args:
        spec: The attack.
        budget: `published` or `quick`.

    Raises:
        ConfigError: There is no such preset.
    """
    if budget not in (PUBLISHED, QUICK):
        raise ConfigError(
            f"there is no budget {budget!r}; known budgets are {PUBLISHED} and {QUICK}; choose one of them"
        )
    return spec.config.parse(QUICK_SETTINGS.get(spec.name, {}) if budget == QUICK else {})


def parse_attacks(text: str) -> tuple[str, ...]:
    """Names of attacks from `a,b,c`; dashes and underscores are the same.

    Raises:
        ConfigError: One of them does not exist.
    """
    names = (part.strip() for part in text.split(","))
    return tuple(dict.fromkeys(attack_named(name).name for name in names if name))


def equal_budget(names: Sequence[str], beside: AttackConfig) -> list[tuple[AttackSpec, AttackConfig]]:
    """Luck with the budget of an attack: as many judged pictures, and free tokens in the same place.

    Args:
        names: Attacks without knowledge.
        beside: Settings of the attack; where it judges the plain prompt alone, so does luck.

    Raises:
        EvaluationError: An attack has no setting by which so many pictures can be had.
    """
    chosen = names if beside.judged_images > 1 else (NO_ATTACK,)
    return [(spec, _with_budget(spec, beside)) for spec in map(attack_named, chosen)]


def _with_budget(spec: AttackSpec, beside: AttackConfig) -> AttackConfig:
    """Settings of an attack that show the judge exactly as many pictures: the setting that counts them."""
    shared = {
        name: getattr(beside, name)
        for name in SHARED
        if name in spec.config.model_fields and name in type(beside).model_fields
    }
    wanted = beside.judged_images
    if spec.config.parse(shared).judged_images == wanted:
        return spec.config.parse(shared)
    counts = [name for name, info in spec.config.model_fields.items() if info.annotation is int]
    for name in (name for name in counts if name not in SHARED):
        for value in (wanted, wanted - 1):
            try:
                config = spec.config.parse({**shared, name: value})
            except ConfigError:
                continue
            if config.judged_images == wanted:
                return config
    raise EvaluationError(
        f"{spec.name!r} cannot show the judge exactly {wanted} pictures of a prompt; expected a setting that "
        "counts them, since luck must have the budget of the attack beside it; use another baseline"
    )
